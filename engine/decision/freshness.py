"""How fresh a node's knowledge is: the bound it has earned, and what that makes it.

A node asks; only an answer to its own question counts. `fresh_until` is when the newest answered question was
*asked*, plus `MAX_SILENCE`, on this machine's boot clock.
"""

import enum
from typing import Final

import msgspec

from engine.clock import BootTime, Seconds, UnixTime

MAX_SILENCE: Final = Seconds(2.0)  # P2: no answer rests on a question older than this
CLOCK_RATE_MARGIN: Final = 0.01  # two machines' clocks may differ in rate by this share, not more


class FreshnessState(enum.StrEnum):
    """As told to callers in `ccs_freshness` (blind callers get 503)."""

    CURRENT = "current"
    LAST_KNOWN = "last_known"
    BLIND = "blind"


class Bound(msgspec.Struct, frozen=True, array_like=True):
    """What the feeder publishes in the replica, in one transaction with what it applied."""

    incarnation: str
    applied: int  # the feed position the replica holds
    boot_id: str  # of the boot that `fresh_until` belongs to; "" = never been current
    fresh_until: BootTime
    as_of: UnixTime  # wall time at which the newest answered question was asked; 0 = never


class Freshness(msgspec.Struct, frozen=True):
    """What a worker found in the transaction it answers from."""

    state: FreshnessState
    as_of: UnixTime
    last_known_until: UnixTime  # as_of + outage cap
