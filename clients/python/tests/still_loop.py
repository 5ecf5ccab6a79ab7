"""An event loop whose time stands still until a test moves it. So nothing sleeps, and each test takes the same course."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

TURNS = 30  # of the loop: more than anything takes here that needs no time

STEP = 0.05  # seconds


class _Impatient(selectors.DefaultSelector):
    """Never waits. A loop that would wait has nothing to do until its time moves, so the test would hang."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            raise RuntimeError("The test waits for something that does not come unless the time is moved.")
        return found


class StillLoop(asyncio.SelectorEventLoop):
    """Moves its time only in `advance`. `asleep` is how long the machine has slept, which its time does not count."""

    def __init__(self) -> None:
        """Begins long after 0, as real clocks do."""
        super().__init__(_Impatient())
        self.now = 1000.0
        self.asleep = 0.0
        self.reported: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.reported.append(context))

    def time(self) -> float:
        """The time of the test."""
        return self.now

    def clock(self) -> float:
        """The same with the time that the machine was asleep."""
        return self.now + self.asleep

    async def settle(self) -> None:
        """Waits until everything has run that needs no time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Moves the time in small steps. Timers run in their order."""
        until = self.now + seconds
        await self.settle()
        while self.now < until - 1e-9:
            self.now = min(until, self.now + STEP)
            for _ in range(3):
                await asyncio.sleep(0)
        await self.settle()

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # there is no other way
        return [timer for timer in scheduled if not timer.cancelled()]
