"""How a chat is to behave."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .addresses import web_socket_urls
from .clock import Clock, since_boot
from .events import UserId
from .sockets import OpenSocket, open_socket
from .storage import Storage
from .tokens import GetToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `connect`, which describes them, and two more for tests: `clock` and `random`."""

    url: str | Sequence[str]
    user: UserId | None = None
    token: GetToken | None = None
    storage: Storage | None = None
    storage_key: str = "global-channels"
    open_socket: OpenSocket = open_socket
    queue_bytes: int = 1024 * 1024
    ping_ms: float = 10_000
    silence_ms: float = 5_000
    longest_pause_ms: float = 20_000
    key_life_ms: float = 300_000
    clock: Clock = since_boot
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError, and says what to write instead."""
        web_socket_urls(self.url)
        if self.user is None and self.token is None:
            raise ValueError('Nobody is named. Give `user="…"`, or `token=…`, a function that returns a token.')
        if isinstance(self.user, bool) or not isinstance(self.user, (str, int, type(None))):
            raise TypeError(f"`user` must be a string or a number, and not {self.user!r}.")
        if self.token is not None and not callable(self.token):
            raise TypeError("`token` must be a function that returns a token: `token=lambda: text`.")
        for name in ("queue_bytes", "ping_ms", "silence_ms", "longest_pause_ms", "key_life_ms"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be more than 0.")
