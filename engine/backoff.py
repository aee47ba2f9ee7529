"""How long to wait before the next try. Pure: the jitter is passed in.

The first retry waits nothing, so that a passing fault costs no time and a revocation that came meanwhile is
noticed at once; later ones double up to a limit.
"""

from typing import Final

import msgspec

from engine.clock import Seconds

HEALTHY_AFTER: Final = Seconds(60.0)  # a minute without a fault and the count of failures starts anew


class Backoff(msgspec.Struct, frozen=True):
    """A doubling schedule. first, limit: seconds."""

    first: Seconds = Seconds(0.1)
    limit: Seconds = Seconds(5.0)

    def delay(self, failures: int, jitter: float) -> Seconds:
        """Wait before the next try after so many failures in a row (1 = the first); jitter is in [0, 1).

        The result lies in [half, whole] of the doubled step; 0 after the first failure.
        """
        if failures <= 1:
            return Seconds(0.0)
        step = min(self.limit, self.first * 2 ** min(failures - 2, 32))
        return Seconds(step * (0.5 + jitter / 2))
