"""Tokens: asking the application for one, and showing a new one before the last one expires."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from .backoff import Backoff
from .connection import Connection, to_json
from .errors import NO_TOKEN, TOKEN_FAILED, ChatError, ConnectionEndedError

REFRESH = "connector.handler.refresh"

GetToken = Callable[[], Awaitable[str | None] | str | None]

REFRESH_AT = 0.8  # of a token's life

JITTER = 0.1  # of a token's life: tokens that were made together are not refreshed together


class Tokens:
    """The tokens of one chat."""

    def __init__(self, get: GetToken | None, within: float, backoff: Callable[[], Backoff], random: Callable[[], float]) -> None:
        """Without `get`, the server must want no tokens. A call that takes longer than `within` seconds has failed."""
        self._get = get
        self._within = within
        self._backoff = backoff
        self._random = random
        self._has_expired = asyncio.Event()

    def __bool__(self) -> bool:
        """True if the application has tokens."""
        return self._get is not None

    async def get(self) -> str | None:
        """Asks the application for a token. None: it has none because none is wanted.

        Raises ChatError with the reason TOKEN_FAILED, which may pass, or NO_TOKEN, which is final.
        """
        if self._get is None:
            return None
        try:
            token = self._get()
            if inspect.isawaitable(token):
                token = await asyncio.wait_for(token, self._within)
            if not isinstance(token, str | None):
                raise TypeError(f"It has returned {type(token).__name__}, and not a string.")
        except Exception as error:
            failed = f"The application's function for tokens has failed: {error!r}"
            raise ChatError(TOKEN_FAILED, failed, retry=True) from error
        if not token:
            raise ChatError(NO_TOKEN, "The application has no token for this user any more.")
        return token

    def expired(self) -> None:
        """The server says that the token has expired: it is refreshed now."""
        self._has_expired.set()

    async def keep_fresh(self, connection: Connection, life: float | None) -> None:
        """Refreshes the token of a connection before it expires, until the connection ends.

        `life` is how many seconds the token is valid from now on, and None if it does not expire. A refresh that fails is
        repeated: the server closes the connection if none succeeds in time. Raises ChatError if there is NO_TOKEN.
        """
        backoff = self._backoff()
        self._has_expired.clear()
        while connection.end is None:
            await self._wait(life)
            try:
                answer = await connection.ask(REFRESH, to_json({"token": await self.get()}))
            except ConnectionEndedError:
                return
            except ChatError as error:
                if error.reason == NO_TOKEN:
                    raise
                await asyncio.sleep(error.retry_after + backoff.pause())
                self.expired()
                continue
            backoff.reset()
            self._has_expired.clear()
            life = seconds(answer.get("ttl"))

    async def _wait(self, life: float | None) -> None:
        pause = None if life is None else life * (REFRESH_AT - JITTER * self._random())
        try:
            await asyncio.wait_for(self._has_expired.wait(), pause)
        except asyncio.TimeoutError:
            return


def seconds(ttl: object) -> float | None:
    """The `ttl` of an answer."""
    return float(ttl) if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) else None
