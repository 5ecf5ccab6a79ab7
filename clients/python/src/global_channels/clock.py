"""Time that goes on while the machine sleeps.

The clock of asyncio's loop may stand still meanwhile. Two things need the other kind: a message whose key the server has
forgotten must not be repeated, and a client that has slept should look at its connection at once.
"""

import sys
import time
from collections.abc import Callable

Clock = Callable[[], float]


def _since_boot() -> Clock:
    if sys.platform == "linux":
        return lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        # Darwin's CLOCK_MONOTONIC counts sleep. `time.monotonic` uses another clock, which does not.
        return lambda: time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic


since_boot: Clock = _since_boot()
"""Seconds since the machine was started, with the time that it was asleep."""
