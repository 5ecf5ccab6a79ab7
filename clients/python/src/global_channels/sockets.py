"""The socket below a connection, and the one that is used unless an application gives another one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_connection
from websockets.exceptions import ConnectionClosed

LARGEST_MESSAGE = 8 * 1024 * 1024  # bytes: the server never queues as much for a client


@dataclass(frozen=True, slots=True)
class SocketClosed(Exception):  # noqa: N818 - it is the usual end of a socket, not an error
    """The socket has ended. `code` is that of the server's close frame, and 1006 if there was none."""

    code: int
    reason: str = ""


class Socket(Protocol):
    """A WebSocket that is open. Each text is one message."""

    async def send(self, text: str) -> None:
        """Sends a message. Waits while too much is unsent. Raises SocketClosed or OSError if the socket has ended."""
        ...

    async def receive(self) -> str | bytes:
        """Waits for the next message. Raises SocketClosed or OSError if the socket has ended."""
        ...

    async def close(self, code: int = 1000) -> None:
        """Sends what is unsent, and closes the socket in the usual way."""
        ...

    def abort(self) -> None:
        """Ends the socket at once, without a word to the server. Does nothing if it has ended."""
        ...


OpenSocket = Callable[[str], Awaitable[Socket]]
"""Opens a socket to an address. The library cancels it if it takes too long."""


class WebSocket:
    """A socket of the library `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        """`connection` is open."""
        self._connection = connection

    async def send(self, text: str) -> None:
        """Sends a message."""
        try:
            await self._connection.send(text)
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def receive(self) -> str | bytes:
        """Waits for the next message."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def close(self, code: int = 1000) -> None:
        """Closes the socket in the usual way."""
        await self._connection.close(code)

    def abort(self) -> None:
        """Ends the socket at once."""
        # What lies in the buffers of a dead network must not reach the server minutes later.
        self._connection.transport.abort()


def _closed(closed: ConnectionClosed) -> SocketClosed:
    # Only what the server has sent says what the server thinks of us.
    return SocketClosed(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else SocketClosed(1006, str(closed))


async def open_socket(url: str, **settings: Any) -> WebSocket:
    """Opens a WebSocket with the library `websockets`.

    `settings` are those of `websockets.asyncio.client.connect`, such as `ssl`, `additional_headers` or `proxy`. Give
    `connect(…, open_socket=functools.partial(open_socket, ssl=context))` to use them.
    """
    defaults: dict[str, Any] = {
        "ping_interval": None,  # The chat has pings of its own, which also show that the server answers requests.
        "open_timeout": None,  # The chat bounds it.
        "close_timeout": 1,
        "max_size": LARGEST_MESSAGE,
    }
    return WebSocket(await open_connection(url, **{**defaults, **settings}))
