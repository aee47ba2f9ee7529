"""How many items a second each caller may ask about: a bucket per caller, filled by the boot clock (row 29).

Pure: the time is passed in. A bucket holds one second's worth, so that a caller may send its allowance at once or
evenly. Each worker counts for itself and grants the whole allowance: a caller's connections may all have come to
one worker, and turning away what was promised would be worse than letting through more.
"""

from engine.clock import BootTime
from engine.consent.records import ClientId


class _Bucket:
    __slots__ = ("at", "level")

    def __init__(self, level: float, at: BootTime) -> None:
        self.level = level
        self.at = at


class Rates:
    """One bucket for each caller that was ever admitted; callers are registered participants, so they are few."""

    def __init__(self) -> None:
        self._buckets: dict[ClientId, _Bucket] = {}

    def admit(self, caller: ClientId, per_second: int, now: BootTime, items: int = 1) -> bool:
        """Take items from the caller's bucket; False = they are not there. per_second may change between calls.

        More items than a whole second's allowance are let through when the bucket is full, and leave a debt.
        """
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(per_second, now)
        elif now > bucket.at:
            bucket.level = min(per_second, bucket.level + (now - bucket.at) * per_second)
            bucket.at = now
        if bucket.level < min(items, per_second):
            return False
        bucket.level -= items
        return True
