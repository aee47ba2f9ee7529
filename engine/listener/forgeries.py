"""Records in Redis that no key of ours has sealed: passed over for the answer, counted and told to a person."""

from engine.telemetry.logs import logger
from engine.telemetry.tally import Tally

_log = logger("worker")


class Forgeries(Tally):
    """Counts what is found. The 1st, 2nd, 4th, 8th … is logged: a flood of forgeries is no flood of lines."""

    __slots__ = ()

    def __call__(self) -> None:
        """One more."""
        super().__call__()
        if self.total.bit_count() == 1:
            _log.error("redis_forgery", text="a record of a consent or a token failed its check", so_far=self.total)
