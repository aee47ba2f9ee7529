"""Where a restored ledger goes on: above every position that anybody can ever have been told. Pure.

Nobody knows for certain how far a lost ledger had come, so its numbers are not guessed, they are bounded: a ledger
gives numbers one after another under one lock, each with a hash and a row, and never RATE of them a second. So at time
t no position above RATE * (t - created) has been given, and a new incarnation begins there, MARGIN higher for clocks
that disagree. The bound rests on the ledger's age alone, not on the backup: were it counted from what a backup holds,
a newer backup restored after an older one would begin lower. `docs/decisions/0018` has the proof.
"""

from collections.abc import Iterable
from typing import Final

from engine.clock import Seconds, UnixTime
from engine.errors import Fault, Kind
from engine.replica.layout import STAMP_BYTES

RATE: Final = 100_000  # events a second; the fastest ledger measured gives a fifth of it
MARGIN: Final = Seconds(3_600.0)
# Half of what a replica's stamps hold, so that as much is left to go on with; and what every JSON reader keeps exact.
HIGHEST: Final = min(1 << (8 * STAMP_BYTES - 1), 1 << 53)


class ClockBehind(Fault):
    """The clock says that the restore comes before what is restored."""

    kind = Kind.INVALID


class PositionTooHigh(Fault):
    """Beyond it, replicas have no room for positions, or readers of JSON confuse neighbouring ones."""

    kind = Kind.INVALID


def first_position(created_at: UnixTime, recorded_at: UnixTime, wall: float, told: Iterable[int]) -> int:
    """The seq of a new incarnation's first event. created_at: the ledger's first event; recorded_at: the last kept.

    wall: now, seconds since 1970. told: positions that are known, the last one kept among them; they can only raise
    it, and do so only where a clock was wrong. Raises ClockBehind, PositionTooHigh.
    """
    if wall < recorded_at:
        raise ClockBehind("this machine's clock stands before the last event of the backup: set it right first")
    first = max(int(RATE * (wall - created_at + MARGIN)), *told) + 1
    if first > HIGHEST:
        raise PositionTooHigh(f"the ledger would go on at {first}, above the highest position {HIGHEST}")
    return first
