"""Which node to ask: what is remembered of each, and the order that follows from it. Pure.

First those that answered well lately, in turn, so that load is spread; then the slow, then those that said
`last_known`, last those that failed. One that has failed is tried again by a single question every ten seconds.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from engine.clock import Seconds
from engine.guard.evidence_words import Failure
from engine.guard.fallback import FRESH

REST: Final = Seconds(10.0)  # after a failure
STALE_FOR: Final = Seconds(2.0)  # a node that said `last_known` is not asked in place of another for so long
SLOW_FOR: Final = Seconds(1.0)

SAMPLES: Final = 256  # of durations
HEDGE_AT_MOST: Final = Seconds(0.05)
HEDGE_AT_LEAST: Final = Seconds(0.01)  # below this, a second question costs more than it saves


class Address(msgspec.Struct):
    """One node. Times: monotonic seconds; minus infinity: never."""

    origin: str
    good_at: float = float("-inf")
    failed_at: float = float("-inf")
    rested_from: float = float("-inf")
    stale_at: float = float("-inf")
    slow_at: float = float("-inf")
    failure: Failure | None = None  # the newest contact's, if that was one


class Addresses:
    """All configured nodes. Every `now`: monotonic seconds."""

    def __init__(self, origins: Collection[str]) -> None:
        self._all = {origin: Address(origin) for origin in origins}
        self._turn = 0
        self._troubled = False  # something is remembered that could change the order

    def __len__(self) -> int:
        return len(self._all)

    def order(self, now: float) -> list[str]:
        """All nodes, best first."""
        origins = list(self._all)
        if len(origins) == 1:
            return origins
        self._turn = (self._turn + 1) % len(origins)
        turned = origins[self._turn :] + origins[: self._turn]
        if not self._troubled:
            return turned
        return sorted(turned, key=lambda origin: self._rank(self._all[origin], now))

    def first(self, now: float) -> list[str]:
        """The order for a new question. One that has failed and is due for a trial gets this question first."""
        order = self.order(now)
        if not self._troubled or len(order) == 1:
            return order
        for origin in order:
            address = self._all[origin]
            if address.failure is not None and now - address.rested_from >= REST:
                address.rested_from = now  # whoever is let through keeps the others back
                return [origin, *(other for other in order if other != origin)]
        return order

    def better(self, now: float, asked: Collection[str]) -> list[str]:
        """Nodes that may have a current answer where one of those asked had none."""
        return [
            origin
            for origin in self.order(now)
            if origin not in asked
            and self._all[origin].failure is None
            and now - self._all[origin].stale_at > STALE_FOR
        ]

    def answered(self, origin: str, now: float, *, current: bool) -> None:
        """A sound answer came."""
        address = self._all[origin]
        address.good_at, address.failure = now, None
        if current:
            address.stale_at = float("-inf")
        else:
            address.stale_at, self._troubled = now, True

    def failed(self, origin: str, now: float, failure: Failure) -> None:
        """No sound answer came."""
        if failure is Failure.BUSY:
            return  # says something about us
        address = self._all[origin]
        address.failed_at = address.rested_from = now
        address.failure, self._troubled = failure, True

    def was_slow(self, origin: str, now: float) -> None:
        """Another node answered before it."""
        self._all[origin].slow_at, self._troubled = now, True

    def failing(self, now: float, since: float) -> dict[str, Failure | None]:
        """For each node its newest failure; None: no fresh one, or it has answered somebody after `since`."""
        return {
            origin: None if address.good_at > since or now - address.failed_at > FRESH else address.failure
            for origin, address in self._all.items()
        }

    @staticmethod
    def _is_well(address: Address, now: float) -> bool:
        return address.failure is None and now - address.stale_at > STALE_FOR

    def _rank(self, address: Address, now: float) -> tuple[bool, float, bool, bool]:
        has_failed = address.failure is not None
        return (
            has_failed,
            address.failed_at if has_failed else 0.0,  # who failed longest ago first
            now - address.stale_at <= STALE_FOR,
            now - address.slow_at <= SLOW_FOR,
        )


class Pace:
    """How long to wait for a node before a second one is asked: the 95th percentile lately, and at most 50 ms."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self.patience: Seconds = HEDGE_AT_MOST

    def note(self, seconds: float) -> None:
        """How long an answer took."""
        self._samples.append(seconds)
        if len(self._samples) == SAMPLES:
            percentile = sorted(self._samples)[SAMPLES * 95 // 100]
            self.patience = Seconds(min(max(percentile, HEDGE_AT_LEAST), HEDGE_AT_MOST))
            self._samples.clear()
