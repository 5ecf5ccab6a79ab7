"""Places in the log of a channel."""

from typing import Any, NamedTuple


class Position(NamedTuple):
    """A place in the log of a channel: `epoch` is an opaque text, and `offset` is the number of a publication in it."""

    epoch: str
    offset: int

    def to_json(self) -> dict[str, Any]:
        """The form of the protocol: `{"epoch": …, "offset": …}`."""
        return {"epoch": self.epoch, "offset": self.offset}

    @classmethod
    def read(cls, given: object) -> "Position | None":
        """Reads a position, a pair, or the form of the protocol. None: it is nothing of these."""
        match given:
            # Python counts booleans as integers.
            case (str(epoch), int(offset)) | {"epoch": str(epoch), "offset": int(offset)} if offset >= 0:
                return None if isinstance(offset, bool) else cls(epoch, offset)
        return None
