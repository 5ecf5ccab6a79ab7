"""Pauses that grow with each failure."""

from collections.abc import Callable

FIRST = 0.5  # seconds: the longest pause after the first failure

MOST_DOUBLINGS = 16  # Further failures do not make a pause longer, and 2 ** 1000 is not a float that one can wait for.


class Backoff:
    """Counts failures, and draws pauses with full jitter: from 0 up to a bound that doubles with each failure.

    Full jitter, because others have failed at the same moment. If all of them waited equally long, they would come back
    together and fail again.
    """

    def __init__(self, longest: float, random: Callable[[], float]) -> None:
        """`longest` bounds what is drawn, in seconds. `random` gives numbers from 0 to 1."""
        self._longest = longest
        self._random = random
        self._failures = 0

    def pause(self) -> float:
        """Counts a failure. Returns how many seconds to wait."""
        bound = min(self._longest, FIRST * 2 ** min(self._failures, MOST_DOUBLINGS))
        self._failures += 1
        return float(bound * self._random())

    def reset(self) -> None:
        """Something succeeded, so the next failure is the first one."""
        self._failures = 0
