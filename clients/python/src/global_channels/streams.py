"""Events for those who iterate over a channel."""

import asyncio
from collections import deque
from weakref import WeakSet

from .events import LogEvent, Lost
from .positions import Position

MOST_EVENTS = 10_000  # that wait for one reader
MOST_HELD = 1_000  # that wait for the first reader


class Stream:
    """One iteration over the events of a channel. It begins when it is made, and ends when the channel is left.

    It holds 10,000 events at most. If its reader is slower than that, the oldest are dropped. Then it gives
    `Lost("overflow", …)` once in their place, and goes on with those that it has.
    """

    def __init__(self, source: object, most: int = MOST_EVENTS) -> None:
        """Is made by the channel, `source`, which must live as long as somebody iterates over it."""
        self._source = source
        self._events: deque[LogEvent] = deque(maxlen=most)
        self._dropped: LogEvent | None = None  # the first one of those that were dropped in a row
        self._is_over = False
        self._wake: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Stream":
        """Returns itself."""
        return self

    async def __anext__(self) -> LogEvent:
        """The next event. Only one task may wait for it at a time."""
        while not self._events:
            if self._is_over:
                raise StopAsyncIteration
            if self._wake is not None:
                raise RuntimeError("Two tasks iterate over one stream. Let each of them iterate over the channel.")
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._dropped is not None:
            dropped, self._dropped = self._dropped, None
            return Lost("overflow", _before(dropped), _before(self._events[0]))
        return self._events.popleft()

    def _put(self, event: LogEvent) -> None:
        """Adds an event."""
        if self._dropped is None and len(self._events) == self._events.maxlen:
            self._dropped = self._events[0]
        self._events.append(event)
        self._notify()

    def _go_on_from(self, other: "Stream") -> None:
        """Begins with what another one has."""
        self._events.extend(other._events)
        self._dropped = other._dropped

    def _end(self) -> None:
        """Nothing follows what is in here."""
        self._is_over = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _before(event: LogEvent) -> Position | None:
    return event.from_ if isinstance(event, Lost) else Position(event.epoch, event.offset - 1)


class Streams:
    """The iterations over one channel. A stream that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        """There is none."""
        self._streams: WeakSet[Stream] = WeakSet()
        self._held: Stream | None = None  # what the first one will begin with

    def open(self, source: object) -> Stream:
        """Begins another one, with what is held."""
        stream = Stream(source)
        if self._held is not None:
            stream._go_on_from(self._held)
            self.release()
        self._streams.add(stream)
        return stream

    def hold(self) -> None:
        """Holds what comes until the first one begins, unless there is one."""
        if not self._streams:
            self._held = Stream(None, MOST_HELD)
            self._streams.add(self._held)

    def release(self) -> None:
        """Holds nothing any more."""
        if self._held is not None:
            self._streams.discard(self._held)
            self._held = None

    def put(self, event: LogEvent) -> None:
        """Adds an event to all of them."""
        for stream in tuple(self._streams):
            stream._put(event)

    def end(self) -> None:
        """Ends all of them."""
        for stream in tuple(self._streams):
            stream._end()
        self._streams.clear()
