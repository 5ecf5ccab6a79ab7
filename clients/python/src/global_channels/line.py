"""What the channels of a chat share: its connection, and what all their messages may hold."""

from .connection import Connection
from .errors import CLOSED, QUEUE_FULL, ChatError


class Line:
    """The connection on which the chat is logged in, if there is one."""

    def __init__(self, room: int) -> None:
        """`room` is the number of bytes that requests without an answer may have together."""
        self._most = self._room = room
        self.connection: Connection | None = None
        self._closed: ChatError | None = None

    def take(self, size: int) -> bool:
        """Takes room for a request. False: there is not enough, and nothing was taken."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def full(self, size: int) -> ChatError:
        """Why a request of this size was not taken. There is never room for one that is larger than all the room."""
        fits = size <= self._most
        advice = "Wait until what was sent is answered." if fits else "This one is larger than queue_bytes alone."
        return ChatError(QUEUE_FULL, f"What waits for answers has reached the limit. {advice}", retry=fits)

    def give(self, size: int) -> None:
        """Gives the room of a request back."""
        self._room += size

    @property
    def closed(self) -> ChatError | None:
        """What everything fails with, if the chat is closed."""
        return None if self._closed is None else self._closed.again()

    def close(self, why: str) -> ChatError:
        """From now on, everything fails with the error that this returns."""
        self._closed = ChatError(CLOSED, why)
        return self._closed
