"""Tasks that wait for one thing."""

import asyncio
from typing import Generic, TypeVar

from .errors import ChatError

T = TypeVar("T")


class Waiters(Generic[T]):
    """Tasks that wait for the same result. A task that is cancelled takes its place with it."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._futures: set[asyncio.Future[T]] = set()

    def __bool__(self) -> bool:
        """True if anybody waits, or has not yet seen the result."""
        return bool(self._futures)

    async def wait(self) -> T:
        """Waits for the result. Raises what it has failed with."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        try:
            return await future
        finally:
            self._futures.discard(future)

    def resolve(self, result: T) -> None:
        """Gives the result to all who wait now."""
        for future in self._futures:
            if not future.done():
                future.set_result(result)

    def reject(self, error: ChatError) -> None:
        """All who wait now fail."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error.again())
