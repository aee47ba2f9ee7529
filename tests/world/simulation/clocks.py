"""The clocks of made-up machines: of another rate, of another beginning, and a wall clock that may be set."""

from collections.abc import Callable

from engine.clock import BootTime, UnixTime
from tests.support.consents import NOW


class MachineClock:
    """One machine's. rate: of its oscillator, 1 = true. now: the true time, seconds since the world began."""

    def __init__(self, now: Callable[[], float], rate: float = 1.0, up: float = 1_000.0) -> None:
        self._now, self._rate = now, rate
        self._booted_at = now() - up
        self.wall_error = 0.0

    def reboot(self) -> None:
        self._booted_at = self._now() - 1.0

    def boot(self) -> BootTime:
        return BootTime((self._now() - self._booted_at) * self._rate)

    def wall(self) -> float:
        return NOW + self._now() * self._rate + self.wall_error

    def now(self) -> UnixTime:
        return UnixTime(int(self.wall()))
