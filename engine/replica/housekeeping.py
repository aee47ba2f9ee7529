"""What keeps the replica small: slots of dead readers, and records nobody can ask about any more.

Forgetting goes by the wall clock, and a wrong one would forget a revocation too soon. So nothing is forgotten
until the wall clock has kept pace with the boot clock for a while: a machine that starts with a wrong date has
been set right by then, and one that is being set right waits anew.
"""

from typing import Final

import trio

from engine.clock import BootTime, Clock, Seconds, UnixTime
from engine.replica.environment import ReplicaFull
from engine.replica.store import ReplicaStore
from engine.telemetry.logs import logger

EVERY: Final = Seconds(2.0)
SWEPT_AT_ONCE: Final = 1_000  # records of a kind: about 2 ms; a million consents are gone through in half an hour
TOKEN_LIFE: Final = Seconds(86_400.0)  # far above what the issuer gives; a tombstone costs 200 bytes
STEADY_FOR: Final = Seconds(600.0)
STEADY_WITHIN: Final = Seconds(5.0)

_log = logger("feeder")


class SteadyWall:
    """Whether the wall clock has kept pace with the boot clock for STEADY_FOR. Pure: readings are passed in."""

    def __init__(self) -> None:
        self._since: BootTime | None = None
        self._offset = 0.0

    def steady(self, wall: UnixTime, boot: BootTime) -> bool:
        """Take a pair of readings."""
        offset = wall - boot
        if self._since is None or abs(offset - self._offset) > STEADY_WITHIN:
            self._since, self._offset = boot, offset
        return boot - self._since >= STEADY_FOR


async def keep_house(store: ReplicaStore, clock: Clock) -> None:
    """Until cancelled."""
    wall = SteadyWall()
    while True:
        freed = store.reader_check()
        if freed:
            _log.info("reader_slots_freed", count=freed)
        if wall.steady(clock.now(), clock.boot()) and store.bound is not None:
            _sweep(store, clock.now())
        await trio.sleep(EVERY)


def _sweep(store: ReplicaStore, now: UnixTime) -> None:
    try:
        store.sweep(now, TOKEN_LIFE, SWEPT_AT_ONCE)
    except ReplicaFull as fault:
        _log.warning("sweep_failed", text=fault.text)
