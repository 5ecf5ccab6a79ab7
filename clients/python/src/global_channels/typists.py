"""Who is typing in a channel."""

import asyncio
from collections.abc import Callable

from .events import Typing, UserId

SAY_EVERY = 3.0  # seconds

FORGET_AFTER = 6.0  # seconds: two of our own kind may be lost

MOST_TYPISTS = 1_000  # Nobody can read more names, and the memory is bounded.


class Typists:
    """Tells when a user begins and ends to type.

    A user who types says so every three seconds. A user ends by saying so, by sending a message, or by saying nothing for
    six seconds, because what says it may be lost.
    """

    def __init__(self, tell: Callable[[Typing], None]) -> None:
        """Nobody types."""
        self._tell = tell
        self._until: dict[str, tuple[float, UserId]] = {}  # in the order in which they end
        self._timer: asyncio.TimerHandle | None = None

    def typing(self, user: UserId) -> None:
        """A user has said that it types."""
        is_new = self._until.pop(str(user), None) is None
        if is_new and len(self._until) >= MOST_TYPISTS:
            return
        loop = asyncio.get_running_loop()
        self._until[str(user)] = (loop.time() + FORGET_AFTER, user)
        if self._timer is None:
            self._timer = loop.call_later(FORGET_AFTER, self._forget)
        if is_new:
            self._tell(Typing(user, typing=True))

    def ended(self, user: UserId | None) -> None:
        """A user has said that it does not type any more, or has sent a message."""
        if user is not None and self._until.pop(str(user), None) is not None:
            self._tell(Typing(user, typing=False))

    def clear(self) -> None:
        """The channel is left, so nobody types there any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, user in tuple(self._until.values()):
            self.ended(user)

    def _forget(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = loop.time()
        over = [user for until, user in self._until.values() if until <= now]
        for user in over:
            self.ended(user)
        if self._until and self._timer is None:
            self._timer = loop.call_at(next(iter(self._until.values()))[0], self._forget)


class OwnTyping:
    """Says that we type, but not more often than others need to hear it."""

    def __init__(self, say: Callable[[bool], bool]) -> None:
        """`say` sends it, and returns whether that was possible."""
        self._say = say
        self._said_at: float | None = None

    def typing(self, on: bool) -> None:
        """We type, or not any more."""
        now = asyncio.get_running_loop().time()
        if not on:
            if self._said_at is not None and now - self._said_at < FORGET_AFTER:
                self._say(False)
            self._said_at = None
        elif (self._said_at is None or now - self._said_at >= SAY_EVERY) and self._say(True):
            self._said_at = now

    def sent(self) -> None:
        """We have sent a message, so others know that we do not type any more."""
        self._said_at = None
