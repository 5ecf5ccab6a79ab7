"""Listeners of events, plain functions and async ones."""

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

Listener = Callable[[Any], object]

MOST_WAITING = 10_000  # calls of async listeners


def report(doing: str, error: BaseException) -> None:
    """Tells the loop's exception handler of an error that nobody else would hear of."""
    context = {"message": f"global_channels: {doing} failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


class Listeners:
    """The listeners of one chat or channel.

    Plain listeners are called at once. What async ones return is awaited by one task, one after the other, in the order
    of the events. The task exists only while something waits. A listener that fails is reported, and breaks nobody.

    If more than 10,000 calls wait, the oldest are dropped. Then `overflow` is told in their place, if there is one.
    """

    def __init__(self, owner: str, events: Sequence[str], overflow: tuple[str, object] | None = None) -> None:
        """`owner` is "chat" or "channel", and `events` are the names of its events.

        `overflow` is the name and the event that is told after calls were dropped.
        """
        self._owner = owner
        self._listeners: dict[str, list[Listener]] = {name: [] for name in events}
        self._waiting: deque[Awaitable[object]] = deque()
        self._overflow = overflow
        self._has_dropped = False
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Future[object] | None = None

    def __bool__(self) -> bool:
        """True if anybody listens."""
        return any(self._listeners.values())

    def hears(self, event: str) -> bool:
        """True if somebody listens to events of this name."""
        return bool(self._listeners[event])

    def on(self, event: str, listener: Listener) -> Callable[[], None]:
        """Adds a listener. Returns a function that removes it again, and does nothing if it is called twice.

        Raises ValueError if there is no such event.
        """
        listeners = self._listeners.get(event)
        if listeners is None:
            raise ValueError(f"A {self._owner} has no event {event!r}. It has: {', '.join(self._listeners)}.")
        entry = partial(listener)  # The same function may be given twice. An object of its own tells the two apart.
        listeners.append(entry)

        def off() -> None:
            if entry in listeners:
                listeners.remove(entry)

        return off

    def tell(self, name: str, event: object) -> None:
        """Tells all listeners of the events of this name."""
        for listener in tuple(self._listeners.get(name, ())):
            called = self._call(listener, name, event)
            if called is not None:
                self._later(called)

    def _call(self, listener: Listener, name: str, event: object) -> Awaitable[object] | None:
        try:
            returned = listener(event)
        except Exception as error:
            report(f"a listener of {name!r}", error)
            return None
        return returned if inspect.isawaitable(returned) else None

    def _later(self, called: Awaitable[object]) -> None:
        self._waiting.append(called)
        if len(self._waiting) > MOST_WAITING:
            _discard(self._waiting.popleft())
            self._has_dropped = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._await_all())

    async def _await_all(self) -> None:
        try:
            while self._waiting or self._has_dropped:
                if self._has_dropped:
                    self._has_dropped = False
                    await self._tell_overflow()
                elif self._waiting:
                    await self._await(self._waiting.popleft())
        finally:
            # After a cancellation, calls that nobody awaits any more would be warned of.
            while self._waiting:
                _discard(self._waiting.popleft())
            self._task = None

    async def _tell_overflow(self) -> None:
        if self._overflow is None:
            report("a slow async listener", RuntimeError(f"more than {MOST_WAITING} calls wait for it"))
            return
        for listener in tuple(self._listeners.get(self._overflow[0], ())):
            called = self._call(listener, *self._overflow)
            if called is not None:
                await self._await(called)

    async def _await(self, called: Awaitable[object]) -> None:
        # In a task of its own: a listener that awaits what somebody has cancelled must not end those that follow it.
        self._running = asyncio.ensure_future(called)
        try:
            await asyncio.wait({self._running})
            if not self._running.cancelled() and (error := self._running.exception()) is not None:
                report("an async listener", error)
        finally:
            self._running.cancel()
            self._running = None

    def busy(self) -> "asyncio.Task[None] | None":
        """The task that is over when async listeners have got all that was told. None: nothing waits.

        None as well if a listener asks, because it would wait for itself.
        """
        return None if self._running is asyncio.current_task() else self._task


def _discard(called: Awaitable[object]) -> None:
    if inspect.iscoroutine(called):
        called.close()
    elif isinstance(called, asyncio.Future):
        called.cancel()
