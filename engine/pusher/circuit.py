"""Spares a receiver that is down, and us: while it does not answer, no new deliveries are begun. Pure.

What has failed already goes on by its schedule, so that number and spacing of attempts stay what was agreed; each of
those, and every heartbeat, is a probe. Where there is nothing of the kind, one new delivery a rest is.
"""

from typing import Final

from engine.clock import Seconds

OPENS_AFTER: Final = 5  # failures in a row
FIRST_REST: Final = Seconds(15.0)
LONGEST_REST: Final = Seconds(60.0)  # a heartbeat comes as often


class Circuit:
    """Of one receiver. now: any clock in seconds, always the same."""

    def __init__(self) -> None:
        self._failures = 0
        self._rest = FIRST_REST
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the receiver is taken to be down."""
        return self._failures >= OPENS_AFTER

    def failed(self, now: float) -> bool:
        """An attempt failed as others would; returns whether that opened the circuit."""
        self._failures += 1
        if self._failures == OPENS_AFTER:
            self._rest = FIRST_REST
            self._probe_at = now + self._rest
        return self._failures == OPENS_AFTER

    def answered(self) -> bool:
        """The receiver answered, whatever it said; returns whether that closed the circuit."""
        was_open = self.is_open
        self._failures = 0
        return was_open

    def may_begin(self, now: float) -> bool:
        """Whether a delivery that was never tried may be now. Where the circuit is open, call `begun` if it is.

        A probe that is further off than a rest was put there by a clock that was ahead: it may be made now.
        """
        return not self.is_open or not now < self._probe_at <= now + LONGEST_REST

    def begun(self, now: float) -> None:
        """One was: the next, if this one fails, comes after a rest."""
        if self.is_open:
            self._rest = Seconds(min(LONGEST_REST, self._rest * 2))
            self._probe_at = now + self._rest

    @property
    def probe_at(self) -> float | None:
        """When the next new delivery may be begun; None: at any time."""
        return self._probe_at if self.is_open else None
