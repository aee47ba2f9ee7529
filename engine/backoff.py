"""How long to wait before the next try, and when not to try at all. Pure: jitter and time are passed in.

The first retry waits nothing, so that a passing fault costs no time and a revocation that came meanwhile is
noticed at once; later ones double up to a limit. Where many lose the same server in the same instant, the first is
spread as well.
"""

from typing import Final

import msgspec

from engine.clock import Seconds

HEALTHY_AFTER: Final = Seconds(60.0)  # a minute without a fault and the count of failures starts anew


class Backoff(msgspec.Struct, frozen=True):
    """A doubling schedule. first, limit: seconds. spread: what the first retry waits at most, seconds."""

    first: Seconds = Seconds(0.1)
    limit: Seconds = Seconds(5.0)
    spread: Seconds = Seconds(0.0)

    def delay(self, failures: int, jitter: float) -> Seconds:
        """Wait before the next try after so many failures in a row (1 = the first); jitter is in [0, 1).

        The result lies in [half, whole] of the doubled step; after the first failure in [nothing, whole] of the spread.
        """
        if failures <= 1:
            return Seconds(self.spread * jitter)
        step = min(self.limit, self.first * 2 ** min(failures - 2, 32))
        return Seconds(step * (0.5 + jitter / 2))


class Breaker:
    """Spares callers a wait that another has just had in vain.

    After a failure nobody tries for `rest` seconds; then one in so many, until one succeeds. now: any monotonic
    seconds.
    """

    def __init__(self, rest: Seconds) -> None:
        self._rest = rest
        self._next_try: float | None = None  # None: whole

    def admits(self, now: float) -> bool:
        """Whether to try. Where the last try failed, the one who is let through keeps the others back."""
        if self._next_try is None:
            return True
        if now < self._next_try:
            return False
        self._next_try = now + self._rest
        return True

    def failed(self, now: float) -> None:
        """A try was in vain."""
        self._next_try = now + self._rest

    def succeeded(self) -> None:
        """A try was not."""
        self._next_try = None
