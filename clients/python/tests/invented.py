"""Invented sockets, and a scene in which a test plays the server."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from still_loop import StillLoop

from global_channels import Channel, Chat, SocketClosed, Storage
from global_channels.options import Options
from global_channels.tokens import GetToken

LOGIN = "connector.handler.login"
PING = "connector.handler.ping"
REFRESH = "connector.handler.refresh"
JOIN = "chat.handler.join"
LEAVE = "chat.handler.leave"
PUBLISH = "chat.handler.publish"
MEMBERS = "chat.handler.members"
HISTORY = "chat.handler.history"

SECRET = "8Qp1v0Zc2mXyT7aBd3fGhA"

Json = dict[str, Any]


def refused(reason: str, *, retry: bool = False, **more: Any) -> Json:
    """The body of an answer that refuses."""
    return {"code": 1, "message": f"It is {reason}.", "reason": reason, "retry": retry, **more}


def at(offset: int, epoch: str = "e1") -> Json:
    """A position."""
    return {"epoch": epoch, "offset": offset}


class InventedSocket:
    """A socket of the library. The test plays the server at the other end."""

    def __init__(self, url: str) -> None:
        """Is open."""
        self.url = url
        self.asked: list[Json] = []
        self.closed_with: int | None = None
        self.is_aborted = False
        self.is_stuck = False  # Nothing leaves, also not the close.
        self._incoming: asyncio.Queue[str | Exception] = asyncio.Queue()
        self._answered: set[int] = set()

    # What the library calls

    async def send(self, text: str) -> None:
        """Takes a message, unless the network is stuck."""
        if self.is_stuck:
            await asyncio.get_running_loop().create_future()
        self.asked.append(json.loads(text))

    async def receive(self) -> str:
        """The next message of the test."""
        message = await self._incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self, code: int = 1000) -> None:
        """Notes it, unless the network is stuck."""
        if self.is_stuck:
            await asyncio.get_running_loop().create_future()
        self.closed_with = code

    def abort(self) -> None:
        """Notes it."""
        self.is_aborted = True

    # What tests call

    @property
    def loop(self) -> StillLoop:
        """The loop of the test."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StillLoop)
        return loop

    def of(self, route: str) -> list[Json]:
        """The bodies of all requests of this route."""
        return [request["body"] for request in self.asked if request["route"] == route]

    def unanswered(self, route: str) -> list[Json]:
        """The requests of this route without an answer."""
        return [it for it in self.asked if it["route"] == route and it["id"] not in self._answered]

    def put_answer(self, route: str, body: Json) -> None:
        """Answers the oldest request of this route that has no answer. The library has not read it yet."""
        request = self.unanswered(route)[0]
        self._answered.add(request["id"])
        self._incoming.put_nowait(json.dumps({"id": request["id"], "body": body}))

    async def answer(self, route: str, body: Json | None = None) -> None:
        """Answers the oldest request of this route that has no answer."""
        await self.loop.settle()
        self.put_answer(route, {"code": 0} if body is None else body)
        await self.loop.settle()

    def put(self, message: Json) -> None:
        """Sends a push. The library has not read it yet."""
        self._incoming.put_nowait(json.dumps(message))

    async def push(self, *messages: Json) -> None:
        """Sends pushes."""
        for message in messages:
            self.put(message)
        await self.loop.settle()

    async def put_raw(self, text: str) -> None:
        """Sends what may be no message at all."""
        self._incoming.put_nowait(text)
        await self.loop.settle()

    async def end(self, code: int = 1006, reason: str = "") -> None:
        """The server closes the socket, or the network breaks."""
        self._incoming.put_nowait(SocketClosed(code, reason))
        await self.loop.settle()

    async def kick(self, reason: str, *, reconnect: bool, code: int = 4000, **more: Any) -> None:
        """The server says why, and closes."""
        self.put({"route": "onKick", "body": {"reason": reason, "reconnect": reconnect, **more}})
        await self.end(code, reason)


def message(offset: int, content: object = None, *, channel: str = "room", user: object = "lin", **more: Any) -> Json:
    """A message of a channel."""
    body = {"content": f"m{offset}" if content is None else content, "userId": user}
    return {"route": "onMessage", "channel": channel, "offset": offset, "time": 7, "body": body, **more}


def position(offset: int, epoch: str, reason: str, *, channel: str = "room") -> Json:
    """The server names another position."""
    return {"route": "onPosition", "channel": channel, "body": {**at(offset, epoch), "reason": reason}}


class Scene:
    """All that a test needs: a loop, the sockets that the library has opened, and the chats that the test has made."""

    def __init__(self) -> None:
        """Nothing is connected."""
        self.loop = StillLoop()
        self.random = 0.5
        self.sockets: list[InventedSocket] = []
        self.chats: list[Chat] = []
        self.on_open: Callable[[str], None] = lambda _: None

    async def _open(self, url: str) -> InventedSocket:
        self.on_open(url)
        socket = InventedSocket(url)
        self.sockets.append(socket)
        return socket

    @property
    def socket(self) -> InventedSocket:
        """The socket that was opened last."""
        return self.sockets[-1]

    @property
    def reported(self) -> list[str]:
        """What the loop's exception handler was told, taken out of it."""
        texts = [f"{it['message']}: {it.get('exception')!r}" for it in self.loop.reported]
        self.loop.reported.clear()
        return texts

    async def connect(self, **options: Any) -> Chat:
        """A chat that has begun to connect, with the options of `chat`."""
        chat = self.chat(**options)
        await self.loop.settle()
        return chat

    def chat(
        self,
        *,
        url: str | list[str] = "ws://server",
        user: str | int | None = "ann",
        token: GetToken | None = None,
        storage: Storage | None = None,
        **options: Any,
    ) -> Chat:
        """A chat that was just made."""
        chat = Chat(
            Options(
                url=url,
                user=user,
                token=token,
                storage=storage,
                open_socket=self._open,
                clock=self.loop.clock,
                random=lambda: self.random,
                **options,
            )
        )
        self.chats.append(chat)
        return chat

    async def online(self, **options: Any) -> Chat:
        """A chat that is logged in."""
        chat = await self.connect(**options)
        await self.log_in()
        return chat

    async def log_in(self, **more: Any) -> None:
        """Answers the login."""
        await self.socket.answer(LOGIN, {"code": 0, "resume": SECRET, **more})

    async def joined(self, chat: Chat, name: str = "room", *, offset: int = 4) -> Channel:
        """A channel that is joined."""
        channel = chat.channel(name)
        joining = self.begin(channel.join())
        await self.let_in(offset)
        await joining
        return channel

    async def let_in(self, offset: int = 4, *, recovered: bool = False, replayed: int = 0, epoch: str = "e1") -> None:
        """Answers a join."""
        answer = {"code": 0, "position": at(offset, epoch), "recovered": recovered, "replayed": replayed}
        await self.socket.answer(JOIN, answer)

    async def again(self) -> None:
        """The connection breaks, and the chat is logged in again."""
        await self.socket.end()
        await self.reopened()
        await self.log_in()

    async def away(self, seconds: float) -> None:
        """No socket can be opened for so long. Then the chat is logged in again."""

        def fail(_: str) -> None:
            raise OSError("away")

        self.on_open = fail
        await self.loop.advance(seconds)
        self.on_open = lambda _: None
        await self.reopened()
        await self.log_in()

    async def reopened(self) -> None:
        """Waits until the library has opened another socket."""
        opened = len(self.sockets)
        for _ in range(60):
            if len(self.sockets) > opened:
                break
            await self.loop.advance(0.5)
        assert len(self.sockets) == opened + 1

    def begin(self, doing: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begins to wait for something."""
        return self.loop.create_task(doing)

    async def close(self) -> None:
        """Closes all chats, and looks whether they have left anything."""
        for chat in self.chats:
            await chat.close()
        await self.loop.settle()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        assert not self.loop.timers(), f"timers are left: {self.loop.timers()}"
        for socket in self.sockets:
            assert socket.is_aborted, "a socket is left open"
        assert not self.reported
