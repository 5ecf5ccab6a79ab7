"""How a reader of a channel stays contiguous: what is next, what was given already, and what is missing."""

from .events import Lost, lost
from .positions import Position

NEW_EPOCH = "new-epoch"


class Follower:
    """Knows the position of the last publication that was given, and judges the next one by it."""

    def __init__(self) -> None:
        """Nothing was given."""
        self.position: Position | None = None

    def moved(self, to: Position, reason: str) -> Lost | None:
        """The server has named another position. Returns what the application must be told."""
        before, self.position = self.position, to
        if reason == NEW_EPOCH:
            return None
        return lost(reason, before, to)

    def take(self, offset: int) -> tuple[bool, Lost | None]:
        """A publication has come. Returns whether it is new, and what is missing before it."""
        before = self.position or Position("", offset - 1)
        if offset <= before.offset:
            return False, None
        self.position = Position(before.epoch, offset)
        if offset == before.offset + 1:
            return True, None
        return True, Lost("gap", before, Position(before.epoch, offset - 1))
