"""One channel: what an application does there, and what it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal, Protocol, overload

from .backoff import Backoff
from .clock import Clock
from .connection import Outcome, object_to_json, to_json
from .errors import LEFT, NOT_JOINED, ChatError
from .events import (
    Body,
    Ephemeral,
    Join,
    Joined,
    Leave,
    LogEvent,
    Lost,
    Message,
    Parted,
    Typing,
    publication,
)
from .follower import Follower
from .line import Line
from .listeners import Listener, Listeners
from .membership import JoinResult, Membership
from .outbox import PUBLISH, Outbox, Sent
from .pages import Member, Reader, history, members
from .positions import Position
from .storage import Memory
from .streams import Stream, Streams
from .typists import OwnTyping, Typists

EVENTS = ("message", "join", "leave", "lost", "ephemeral", "typing", "joined", "parted", "position")

REMOVED = "REMOVED"
DELETED = "DELETED"

Unsubscribe = Callable[[], None]


class Owner(Protocol):
    """The chat that a channel belongs to."""

    _line: Line
    _memory: Memory
    _clock: Clock
    _key_life: float

    def _backoff(self) -> Backoff:
        """Pauses of this chat's kind."""
        ...

    def _on_useful(self) -> None:
        """A message was stored."""
        ...

    def _on_added(self, channel: str) -> None:
        """The server has let us into this channel although we did not ask."""
        ...

    def _hold(self, channel: "Channel", *, is_needed: bool) -> None:
        """Keeps the channel although the application holds it no more, as long as it is needed."""
        ...


class Channel:
    """A channel of a chat. `chat.channel(name)` returns the same object for the same name.

    Each publication is given exactly once and in order, through every reconnect. If that is impossible, `lost` says so.
    """

    def __init__(self, name: str, owner: Owner) -> None:
        """Is made by the chat."""
        self.name = name
        self._owner = owner
        self._line = owner._line
        self._memory = owner._memory
        self._follower = Follower()
        self._listeners = Listeners("channel", EVENTS, overflow=("lost", Lost("overflow", None, None)))
        self._streams = Streams()
        self._membership = Membership(name, owner._line, self, owner._backoff())
        self._outbox = Outbox(
            name,
            owner._line,
            backoff=owner._backoff(),
            clock=owner._clock,
            key_life=owner._key_life,
            on_stored=owner._on_useful,
        )
        self._typists = Typists(self._tell)
        self._own_typing = OwnTyping(self._say_typing)
        self._reader = Reader(self._membership.member, owner._backoff)
        self._was_deleted = False

    # What applications do

    @property
    def joined(self) -> bool:
        """True if the server has this client as a member on the current connection."""
        return self._membership.is_in

    @property
    def position(self) -> Position | None:
        """The position of the last publication that was given. None: none was, or the channel was left."""
        return self._follower.position

    async def join(self, *, since: Position | Mapping[str, Any] | None = None) -> JoinResult:
        """Joins, and stays a member through every reconnect until `leave`.

        `since` is the position from which the application wants to go on, as a Position or `{"epoch": …, "offset": …}`.
        Without it, the stored position counts if the chat has a storage that knows one; otherwise the channel begins now.
        It is ignored if the channel is joined or about to be.

        Waits while the chat is away, and while the server says that it may pass. Raises ChatError if it is refused for
        good; then the channel is not joined. If you are cancelled while you wait, the channel is not joined either.
        """
        if (closed := self._line.closed) is not None:
            raise closed
        position = None if since is None else Position.read(since)
        if since is not None and position is None:
            raise ValueError(f'{since!r} is no position. Give a Position, or one such as {{"epoch": "7f3a", "offset": 17}}.')
        if position is not None and not self._membership.is_wanted:
            self._follower.position = position
        self._membership.want()
        self._hold()
        return await self._membership.join(self._follower.position)

    async def leave(self) -> None:
        """Leaves, and waits until the server knows it. Iterators end. The position is forgotten.

        Messages that were not sent yet fail with `NOT_JOINED`. Raises nothing: a connection that ends leaves, too.
        """
        if not self._membership.is_wanted:
            return
        self._membership.give_up(ChatError(LEFT, "The channel was left before the join was done."))
        self._out(ChatError(NOT_JOINED, "The channel was left."))
        await self._membership.left()

    def send(self, body: Mapping[str, Any], *, exclude_self: bool = False) -> Sent:
        """Sends a message to all members. Await what is returned to know that it is stored, or why it is not.

        `body` is a dict that JSON can hold; the server writes `userId` into it. With `exclude_self`, none of this user's
        own connections gets it. Messages of one channel are stored in the order of the calls, each exactly once. While
        the chat is away, they wait.
        """
        error = self._line.closed
        if error is None and not self._membership.is_wanted:
            error = ChatError(NOT_JOINED, "The channel is not joined. Join it first.")
        sent = self._outbox.add(body, exclude_self=exclude_self) if error is None else Sent._failed(error)
        self._own_typing.sent()
        return sent

    def ephemeral(self, body: Mapping[str, Any]) -> bool:
        """Sends to those who are connected now, or to nobody. It is in no log, never queued and never repeated.

        Returns true if it was handed to a connection that is online. Raises ChatError with the reason `INVALID_BODY` if the
        body is no dict, or if JSON cannot hold it.
        """
        return self._say(body, exclude_self=False)

    def typing(self, on: bool = True) -> None:
        """Tells the others that this user types, or not any more. Call it at each keystroke.

        It is sent once in three seconds at most. Others forget it after six seconds, and when a message comes.
        """
        self._own_typing.typing(on)

    async def members(self) -> list[Member]:
        """All users who are in the channel, in no order. Waits while the chat is away. Raises ChatError."""
        return await members(self._reader, self.name)

    def history(
        self, *, newest_first: bool = True, from_: Position | Mapping[str, Any] | None = None, page_size: int = 50
    ) -> AsyncIterator[LogEvent]:
        """The messages, joins and leaves that the log holds, fetched in pages of `page_size` (1 to 1,000) as you iterate.

        `from_` is a position: what is before it comes, newest first, or what follows it, oldest first. Without it, all
        comes. If a page does not continue what came before, `Lost` stands in the place of what is missing. Raises
        ChatError if the read is refused.
        """
        position = None if from_ is None else Position.read(from_)
        if from_ is not None and position is None:
            raise ValueError(f'{from_!r} is no position. Give a Position, or one such as {{"epoch": "7f3a", "offset": 17}}.')
        return history(self._reader, self.name, newest_first=newest_first, from_=position, page_size=page_size)

    def __aiter__(self) -> Stream:
        """Iterates over the messages, joins, leaves and losses that come from now on, until the channel is left.

        If nobody listened when the channel was joined, the first iteration begins there. Until it does, 1,000 events wait.
        After 10,000 events that nobody has read, the oldest are dropped, and `Lost("overflow")` comes in their place.
        """
        stream = self._streams.open(self)
        if self._line.closed is not None:
            stream._end()
        return stream

    @overload
    def on(self, event: Literal["message"], listener: Callable[[Message], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["join"], listener: Callable[[Join], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["leave"], listener: Callable[[Leave], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["lost"], listener: Callable[[Lost], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["ephemeral"], listener: Callable[[Ephemeral], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["typing"], listener: Callable[[Typing], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["joined"], listener: Callable[[Joined], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["parted"], listener: Callable[[Parted], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["position"], listener: Callable[[Position], object]) -> Unsubscribe: ...

    def on(self, event: str, listener: Listener) -> Unsubscribe:
        """Calls the listener for each event of this type. Returns a function that removes it again.

        A plain function is called at once. What an async one returns is awaited, one after the other. A listener that
        fails is reported to the loop's exception handler.
        """
        off = self._listeners.on(event, listener)
        self._hold()

        def unsubscribe() -> None:
            off()
            self._hold()

        return unsubscribe

    # What the chat does

    def _connected(self) -> None:
        """The chat has logged in."""
        self._membership.connected()

    def _disconnected(self) -> None:
        """The connection has ended."""
        self._membership.disconnected()
        self._outbox.shut()

    def _close(self, error: ChatError) -> None:
        """The chat is closed."""
        self._membership.close(error)
        self._outbox.shut()
        self._outbox.close(error)
        self._typists.clear()
        self._streams.end()

    def _busy(self) -> "asyncio.Task[None] | None":
        """The task that is over when async listeners have got what they were told."""
        return self._listeners.busy()

    def _added(self, told: Mapping[str, Any]) -> None:
        """A back end has made this client a member, or the user's token has."""
        self._membership.added(told)

    def _removed(self) -> None:
        """A back end has ended the membership, or has deleted the channel."""
        # Otherwise it is about a membership that we have left, and a join is under way that will say more.
        if self._membership.is_in:
            message = "The channel was deleted." if self._was_deleted else "The user was removed from the channel."
            why = ChatError(NOT_JOINED, message)
            self._membership.removed(why)
            self._tell(Parted(DELETED if self._was_deleted else REMOVED, message))
            self._out(why)

    def _push(self, push: Mapping[str, Any]) -> None:
        """Something was pushed to the channel."""
        if not self._membership.is_in:
            return  # It belongs to a membership that we have left.
        route, given, offset = push.get("route"), push.get("body"), push.get("offset")
        body: Body = given if isinstance(given, dict) else {}
        if route == "onPosition":
            self._moved(body)
        elif push.get("ephemeral") is True:
            self._ephemeral(str(route), body, _time(push))
        elif isinstance(offset, int):
            self._publication(None if route is None else str(route), body, offset, _time(push))

    # What the membership does

    def _since(self) -> Position | None:
        """Where to go on after a reconnect, or after a restart."""
        return self.position or self._memory.position(self.name)

    def _on_added(self) -> None:
        """The server has let us in although we did not ask."""
        self._owner._on_added(self.name)

    def _on_joined(self, result: JoinResult, since: Position | None, *, is_first: bool) -> None:
        """The server has let us in."""
        # Otherwise, what is replayed would be gone for a program that joins, does something else, and then iterates.
        if is_first and not self._listeners.hears("message"):
            self._streams.hold()
        # With `since`, the pushes that follow count from there, and the position of the answer is where they end.
        self._follower.position = since or result.position
        self._entered(result.position, recovered=result.recovered)

    def _on_refused(self, error: ChatError, *, was_member: bool) -> None:
        """The server does not let us in, and will not."""
        if was_member:
            self._tell(Parted(error.reason, error.message))
        self._out(error)

    # Inside

    def _entered(self, position: Position, *, recovered: bool) -> None:
        self._was_deleted = False
        self._hold()
        self._tell(Joined(position, recovered=recovered))
        self._note()
        self._outbox.open()

    def _out(self, why: ChatError) -> None:
        self._outbox.shut()
        self._outbox.fail(why)
        self._typists.clear()
        self._streams.end()
        self._streams.release()
        self._follower.position = None
        self._memory.forget(self.name)
        self._hold()

    def _moved(self, body: Body) -> None:
        to = Position.read(body)
        if to is None:
            return
        lost = self._follower.moved(to, str(body.get("reason")))
        if lost is not None:
            self._give(lost)
        self._note()

    def _publication(self, route: str | None, body: Body, offset: int, time: int) -> None:
        is_new, lost = self._follower.take(offset)
        if not is_new:
            return
        if lost is not None:
            self._give(lost)
        self._was_deleted = route == "onDeleted"
        # Read now, because a listener may leave the channel.
        epoch = self.position.epoch if self.position is not None else ""
        event = None if route is None else publication(route, body, offset, epoch, time)
        if isinstance(event, Message | Leave):
            self._typists.ended(event.user_id)
        if event is not None:
            self._give(event)
        self._note()

    def _ephemeral(self, route: str, body: Body, time: int) -> None:
        user = body.get("userId")
        typing = body.get("typing")
        if isinstance(typing, bool) and user is not None:
            if typing:
                self._typists.typing(user)
            else:
                self._typists.ended(user)
        else:
            self._tell(Ephemeral(route, body, user, time))

    def _say(self, body: Mapping[str, Any], *, exclude_self: bool) -> bool:
        text = object_to_json(body)
        connection = self._line.connection
        excluding = ',"excludeSelf":true' if exclude_self else ""
        params = f'{{"channel":{to_json(self.name)},"body":{text},"ephemeral":true{excluding}}}'
        size = len(params.encode())
        # What is queued would come late, and an ephemeral message that is late is worth nothing.
        if connection is None or not self._membership.is_in or connection.is_crowded() or not self._line.take(size):
            return False

        def answered(_: Outcome) -> None:
            self._line.give(size)

        connection.request(PUBLISH, params, answered)
        return True

    def _say_typing(self, on: bool) -> bool:
        return self._say({"typing": on}, exclude_self=True)

    def _note(self) -> None:
        if self.position is not None:
            self._memory.note(self.name, self.position)
            self._listeners.tell("position", self.position)

    def _give(self, event: LogEvent) -> None:
        self._tell(event)
        self._streams.put(event)

    def _tell(self, event: LogEvent | Ephemeral | Typing | Joined | Parted) -> None:
        self._listeners.tell(event.type, event)

    def _hold(self) -> None:
        self._owner._hold(self, is_needed=self._membership.is_wanted or bool(self._listeners))


def _time(push: Mapping[str, Any]) -> int:
    time = push.get("time")
    return time if isinstance(time, int) else 0
