"""Places in the log of a channel."""

from collections.abc import Mapping
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
        if isinstance(given, Mapping):
            given = (given.get("epoch"), given.get("offset"))
        match given:
            # Python counts booleans as integers.
            case (str(epoch), int(offset)) if offset >= 0 and not isinstance(offset, bool):
                return cls(epoch, offset)
        return None
