"""The addresses of servers, as people write them."""

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def web_socket_urls(url: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses of the WebSockets to try, in this order.

    Raises ValueError if one of them cannot be meant, or if there is none.
    """
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise ValueError('No url is given. Write one, such as "wss://chat.example.com", or a list of them.')
    return tuple(map(_web_socket_url, urls))


def _web_socket_url(url: str) -> str:
    wrong = ValueError(
        f'{url!r} is no address of a server. Write one such as "wss://chat.example.com" or "ws://127.0.0.1:3010/ws".'
    )
    if not isinstance(url, str):
        raise wrong
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port  # `port` raises if it is no number.
    except ValueError:
        raise wrong from None
    if parts.scheme not in SCHEMES or not host:
        raise wrong
    path = "/ws" if parts.path in ("", "/") else parts.path
    # A fragment is never sent to a server, and a WebSocket may have none.
    return urlunsplit((SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))
