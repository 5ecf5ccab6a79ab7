"""A chat: one user's session, kept through every reconnect."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload
from weakref import WeakValueDictionary

from .backoff import Backoff
from .channel import Channel, Unsubscribe
from .connection import object_to_json
from .errors import CLOSED, ChatError
from .events import Added, Body, Push, State, StateName, UserId
from .line import Line
from .listeners import Listener, Listeners
from .options import Options
from .positions import Position
from .session import Session
from .sockets import OpenSocket, open_socket
from .storage import Memory, Storage
from .tokens import GetToken
from .waiters import Waiters

STOP_WITHIN = 3.0  # seconds, for the socket and a storage when the chat is closed

LISTENERS_WITHIN = 1.0  # seconds, for async listeners

EVENTS = ("state", "push", "added")


def connect(
    url: str | Sequence[str],
    *,
    user: UserId | None = None,
    token: GetToken | None = None,
    storage: Storage | None = None,
    storage_key: str = "global-channels",
    open_socket: OpenSocket = open_socket,
    queue_bytes: int = 1024 * 1024,
    ping_ms: float = 10_000,
    silence_ms: float = 5_000,
    longest_pause_ms: float = 20_000,
    key_life_ms: float = 300_000,
) -> "Chat":
    """Begins a chat. It connects at once and in the background, so this returns before it is online.

    `url` is an address such as "wss://chat.example.com", or a list of them, of which the next one is tried at each attempt.
    `user` is who logs in, a string or a number; it may be left out with a token. `token` is a function, plain or async,
    that returns a token. It is called for each login and each refresh; None means that there is none any more. `storage`
    keeps the session and its positions over a restart, under `storage_key`. `open_socket` opens sockets in another way.

    `queue_bytes` is what all requests that are unsent or unanswered may hold together. The times are in milliseconds: a
    ping after `ping_ms` in which nothing came; a connection is dead if nothing comes for `silence_ms` after a request; no
    pause before the next attempt is longer than `longest_pause_ms`, unless the server asks for it; `key_life_ms` is how
    long the server knows the key of a message.

    Must be called while asyncio's loop runs. Raises ValueError or TypeError for arguments that cannot be meant.
    """
    options = Options(
        url=url,
        user=user,
        token=token,
        storage=storage,
        storage_key=storage_key,
        open_socket=open_socket,
        queue_bytes=queue_bytes,
        ping_ms=ping_ms,
        silence_ms=silence_ms,
        longest_pause_ms=longest_pause_ms,
        key_life_ms=key_life_ms,
    )
    return Chat(options)


class Chat:
    """One user's session. It connects again by itself whenever it loses its connection, until it is closed.

    Use it as `async with connect(…) as chat`, or call `close` yourself.
    """

    def __init__(self, options: Options) -> None:
        """Is made by `connect`."""
        self._options = options
        self._state = State("connecting")
        self._listeners = Listeners("chat", EVENTS)
        self._online: Waiters[None] = Waiters()
        self._channels: WeakValueDictionary[str, Channel] = WeakValueDictionary()
        self._needed: set[Channel] = set()
        self._why_closed: ChatError | None = None
        self._line = Line(options.queue_bytes)
        self._memory = Memory(options.storage, options.storage_key, options.user)
        self._clock = options.clock
        self._key_life = options.key_life_ms / 1000
        self._session = Session(options, self._line, self._memory, self)

    # What applications do

    @property
    def state(self) -> StateName:
        """`connecting`, `online`, `away` (it connects again by itself) or `closed` (it does not)."""
        return self._state.state

    async def online(self) -> None:
        """Waits until the chat is online. Raises ChatError with the reason if it is closed."""
        if self._why_closed is not None:
            raise self._why_closed.again()
        if self._line.connection is None:
            await self._online.wait()

    def channel(self, name: str | int) -> Channel:
        """The channel of this name. It is the same object each time, also for 4 and "4"."""
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise ValueError(f"A channel has a name, a string or a number, and not {name!r}.")
        channel = self._channels.get(str(name))
        if channel is None:
            channel = self._channels[str(name)] = Channel(str(name), self)
        return channel

    async def request(self, route: str, body: Mapping[str, Any] | None = None, *, key: str | None = None) -> Body:
        """Asks a handler of the operator, and returns the body of its answer, whatever its `code` is.

        `key` is passed on to the handler. Waits while the chat is away. It is never repeated. Raises ChatError if the
        server refuses it, and with the reason `UNKNOWN` if the connection ended before the answer came: the handler may
        have done it.
        """
        params = object_to_json({} if body is None else body)
        size = len(params.encode())
        if not self._line.take(size):
            raise self._line.full(size)
        try:
            while self._line.connection is None:
                await self.online()
            outcome = await self._line.connection.call(route, params, key)
        finally:
            self._line.give(size)
        if outcome.body is None and (closed := self._line.closed) is not None:
            raise closed
        # An answer of the operator's own may have a code, too. Only the server's refusals say whether to retry.
        is_answered = outcome.body is not None and not isinstance(outcome.body.get("retry"), bool)
        if outcome.error is not None and not is_answered:
            raise outcome.error
        return dict(outcome.body or {})

    async def close(self, *, forget: bool = False) -> None:
        """Logs out: others see the user leave, and everything that is pending fails with `CLOSED`.

        The storage keeps the positions, so that the next chat begins where this one ends. With `forget` it keeps nothing.

        Returns when the socket is closed and async listeners have got what they were told, which takes three seconds at
        most. Messages that were not awaited may not have been sent.
        """
        if forget:
            self._memory.clear()
        self._finish(ChatError(CLOSED, "It was closed by the application."))
        await self._session.stopped(STOP_WITHIN)
        # It may have been closed before, by the server.
        await self._memory.finish()
        busy = [self._listeners.busy(), *(channel._busy() for channel in tuple(self._channels.values()))]
        if tasks := {task for task in busy if task is not None}:
            _, late = await asyncio.wait(tasks, timeout=LISTENERS_WITHIN)
            for task in late:
                task.cancel()

    async def __aenter__(self) -> "Chat":
        """Returns the chat at once. It need not be online yet."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the chat."""
        await self.close()

    @overload
    def on(self, event: Literal["state"], listener: Callable[[State], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["push"], listener: Callable[[Push], object]) -> Unsubscribe: ...
    @overload
    def on(self, event: Literal["added"], listener: Callable[[Added], object]) -> Unsubscribe: ...

    def on(self, event: str, listener: Listener) -> Unsubscribe:
        """Calls the listener for each event of this type. Returns a function that removes it again.

        A plain function is called at once. What an async one returns is awaited, one after the other. A listener that
        fails is reported to the loop's exception handler.
        """
        return self._listeners.on(event, listener)

    # What channels do

    def _backoff(self) -> Backoff:
        """Pauses of this chat's kind."""
        return Backoff(self._options.longest_pause_ms / 1000, self._options.random)

    def _hold(self, channel: Channel, *, is_needed: bool) -> None:
        """Keeps a channel that is joined or has listeners. All others live as long as the application holds them."""
        if is_needed and self._line.closed is None:
            self._needed.add(channel)
        else:
            self._needed.discard(channel)

    def _on_useful(self) -> None:
        """A message was stored."""
        self._session.on_useful()

    def _on_added(self, channel: str) -> None:
        """The server has let us into this channel although we did not ask."""
        self._listeners.tell("added", Added(channel))

    # What the session does

    def _on_online(self) -> None:
        """The user is logged in. All channels are joined in one go."""
        for channel in tuple(self._channels.values()):
            channel._connected()
        self._on_state(State("online"))
        self._online.resolve(None)

    def _on_offline(self) -> None:
        """The connection has ended."""
        for channel in tuple(self._channels.values()):
            channel._disconnected()

    def _on_state(self, state: State) -> None:
        """The chat is in another state."""
        self._state = state
        self._listeners.tell(state.type, state)

    def _on_push(self, push: Mapping[str, Any]) -> None:
        """The server has sent something that is no answer."""
        route, channel, given = push.get("route"), push.get("channel"), push.get("body")
        body: Body = given if isinstance(given, dict) else {}
        if channel is not None:
            if (found := self._channels.get(str(channel))) is not None:
                found._push(push)
        elif route == "onAdded":
            if body.get("channel") and Position.read(body.get("position")) is not None:
                self.channel(str(body["channel"]))._added(body)
        elif route == "onRemoved":
            if (found := self._channels.get(str(body.get("channel")))) is not None:
                found._removed()
        elif route == "onExpired":
            self._session.token_expired()
        elif isinstance(route, str):
            self._listeners.tell(Push.type, Push(route, body))

    def _on_stop(self, error: ChatError) -> None:
        """There is a reason to connect no more."""
        self._finish(error)

    def _finish(self, error: ChatError) -> None:
        if self._why_closed is not None:
            return
        self._why_closed = error
        closed = self._line.close(f"The chat is closed ({error.reason}): {error.message}")
        self._memory.keep(None)
        self._session.stop()
        self._session.spawn(self._memory.finish())
        for channel in tuple(self._channels.values()):
            channel._close(closed)
        self._needed.clear()
        self._on_state(State("closed", error.reason, error.message))
        self._online.reject(error)
