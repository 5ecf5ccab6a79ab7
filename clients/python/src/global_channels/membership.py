"""Being in one channel: joining, coming back after each reconnect, and leaving."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from .backoff import Backoff
from .connection import Connection, Outcome, to_json
from .errors import NOT_JOINED, ChatError
from .line import Line
from .positions import Position
from .waiters import Waiters

JOIN = "chat.handler.join"
LEAVE = "chat.handler.leave"

ALREADY_JOINED = "ALREADY_JOINED"


@dataclass(frozen=True, slots=True)
class JoinResult:
    """This client is a member. `recovered`: nothing was missed since the position that it came with.

    `position` is where it is after the `replayed` pushes that come to bring it up to date.
    """

    position: Position
    recovered: bool
    replayed: int


class Host(Protocol):
    """The channel that a membership belongs to."""

    def _since(self) -> Position | None:
        """The position to come back with."""
        ...

    def _on_added(self) -> None:
        """The server has let us in although we did not ask."""
        ...

    def _on_joined(self, result: JoinResult, since: Position | None, *, is_first: bool) -> None:
        """The server has let us in, for the first time since this is wanted or again. The pushes of the channel follow."""
        ...

    def _on_refused(self, error: ChatError, *, was_member: bool) -> None:
        """The server does not let us in, and will not."""
        ...


class Membership:
    """Asks for what is wanted until the server agrees: to be in the channel, or not to be in it.

    `is_wanted`: the application wants to be in, or a back end does. `is_in`: the server has let us in on the current
    connection, so the pushes that come belong to us.
    """

    def __init__(self, channel: str, line: Line, host: Host, backoff: Backoff) -> None:
        """The channel is neither joined nor wanted."""
        self._channel = channel
        self._line = line
        self._host = host
        self._backoff = backoff
        self.is_wanted = False
        self.is_in = False
        self._was_in = False  # at any time since it is wanted
        self._is_known = False  # Somebody was told of it, so that it must not end by itself.
        self._attempt: object = None  # the join on the current connection whose answer counts
        self._is_entered = False  # The server may have us as a member on the current connection.
        self._pause: asyncio.TimerHandle | None = None
        self._unanswered_leaves = 0
        self._joining: Waiters[JoinResult] = Waiters()
        self._entering: Waiters[None] = Waiters()
        self._leaving: Waiters[None] = Waiters()

    # What the application wants

    async def join(self, position: Position | None) -> JoinResult:
        """Waits until the channel is joined. `position` is the one to tell if it is already.

        If the last task that waits is cancelled, the channel is left again, unless somebody was told that it is joined.
        """
        if self.is_in and position is not None:
            self._is_known = True
            return JoinResult(position, recovered=True, replayed=0)
        self.want()
        try:
            result = await self._joining.wait()
        except asyncio.CancelledError:
            if self.is_wanted and not self._is_known and not self._joining:
                why = ChatError(NOT_JOINED, "The join was cancelled.")
                self.give_up(why)
                self._host._on_refused(why, was_member=False)
            raise
        self._is_known = True
        return result

    def want(self) -> None:
        """Wants to be in."""
        if not self.is_wanted:
            self.is_wanted = True
            self._stop_pause()
            self._leaving.resolve(None)
            self._ask()

    async def member(self) -> Connection:
        """Waits until the channel is joined. Returns the connection. Raises ChatError if it is not wanted, or refused."""
        while not self.is_in or self._line.connection is None:
            if (closed := self._line.closed) is not None:
                raise closed
            if not self.is_wanted:
                raise ChatError(NOT_JOINED, "The channel is not joined. Join it first.")
            await self._entering.wait()
        return self._line.connection

    def give_up(self, why: ChatError) -> None:
        """Does not want to be in any more, and tells the server so."""
        self._end(why)
        if self._is_entered:
            self._leave()

    async def left(self) -> None:
        """Waits until the server knows that we have left. A connection that has ended counts as well."""
        if self._pause is not None or self._is_entered:
            await self._leaving.wait()

    def _end(self, why: ChatError) -> None:
        self.is_wanted = self.is_in = self._was_in = self._is_known = False
        self._attempt = None
        self._stop_pause()
        self._joining.reject(why)
        self._entering.reject(why)

    # What happens to the connection

    def connected(self) -> None:
        """There is a connection, and the chat is logged in there."""
        self._ask()

    def disconnected(self) -> None:
        """The connection has ended, and with it all memberships."""
        self.is_in = self._is_entered = False
        self._attempt = None
        self._unanswered_leaves = 0
        self._stop_pause()
        self._leaving.resolve(None)

    def added(self, told: Mapping[str, Any]) -> None:
        """A back end, or our token, has made us a member. The server has told us where we begin."""
        if self._unanswered_leaves > 0:
            return  # This is over as soon as the leave that is under way.
        self.is_wanted = self._is_known = self._is_entered = True
        self._host._on_added()
        if not self.is_wanted:
            return  # The application has left at once.
        self._stop_pause()
        # If a join is under way, it is answered with ALREADY_JOINED now, which says nothing new.
        self._attempt = None
        since = self._host._since()
        if since is None or "recovered" in told:
            self._enter(_read(told, since), since)
        else:
            # We are in before we could say where we were. To get what we missed, we come in again.
            self._say_leave()
            self._ask()

    def removed(self, why: ChatError) -> None:
        """A back end has ended the membership."""
        self._is_entered = False
        self._end(why)
        self._leaving.resolve(None)

    def close(self, why: ChatError) -> None:
        """The chat was closed."""
        self._end(why)
        self._is_entered = False
        self._leaving.resolve(None)

    # Requests

    def _ask(self) -> None:
        connection = self._line.connection
        if connection is None or not self.is_wanted or self.is_in or self._attempt is not None:
            return
        since = self._host._since()
        attempt = self._attempt = object()
        self._is_entered = True
        how = {"positions": True} if since is None else {"since": since.to_json()}
        body = to_json({"channel": self._channel, **how})
        connection.request(JOIN, body, partial(self._answered, attempt, since))

    def _answered(self, attempt: object, since: Position | None, outcome: Outcome) -> None:
        if attempt is not self._attempt:
            return  # It was left in the meantime, or a back end was faster, or the connection has ended.
        self._attempt = None
        error = outcome.error
        if error is None:
            self._backoff.reset()
            self._enter(_read(outcome.body or {}, since), since)
        elif error.reason == ALREADY_JOINED:
            # A leave was refused before. We do not know where we are, so we leave again and come back with our position.
            self._say_leave()
            self._pause_before(error.retry_after + self._backoff.pause(), self._ask)
        elif error.retry:
            self._is_entered = False
            self._pause_before(error.retry_after + self._backoff.pause(), self._ask)
        else:
            self._is_entered = False
            was_member = self._was_in
            self._end(error)
            self._host._on_refused(error, was_member=was_member)

    def _enter(self, result: JoinResult, since: Position | None) -> None:
        is_first = not self._was_in
        self.is_in = self._was_in = self._is_entered = True
        self._joining.resolve(result)
        self._entering.resolve(None)
        self._host._on_joined(result, since, is_first=is_first)

    def _leave(self) -> None:
        if not self.is_wanted:
            self._say_leave()

    def _say_leave(self) -> None:
        if self._line.connection is not None:
            self._unanswered_leaves += 1
            self._line.connection.request(LEAVE, to_json({"channel": self._channel}), self._told)

    def _told(self, outcome: Outcome) -> None:
        if outcome.body is None:
            return  # The connection has ended.
        self._unanswered_leaves -= 1
        error = outcome.error
        if self.is_wanted:
            return  # It was joined again in the meantime.
        if error is not None and error.retry:
            self._pause_before(error.retry_after + self._backoff.pause(), self._leave)
            return
        # NOT_JOINED and LEAVE_PENDING mean that we are out.
        self._is_entered = False
        self._leaving.resolve(None)

    def _pause_before(self, seconds: float, go_on: Callable[[], None]) -> None:
        def go() -> None:
            self._pause = None
            go_on()

        self._stop_pause()
        self._pause = asyncio.get_running_loop().call_later(seconds, go)

    def _stop_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None


def _read(body: Mapping[str, Any], since: Position | None) -> JoinResult:
    position = Position.read(body.get("position")) or since or Position("", 0)
    replayed = body.get("replayed")
    return JoinResult(position, body.get("recovered") is True, replayed if isinstance(replayed, int) else 0)
