"""How fresh a node's knowledge is: the bound it has earned, and what that makes it.

A node asks; only an answer to its own question counts. `fresh_until` is when the newest answered question was
*asked*, plus `MAX_SILENCE`, on this machine's boot clock. From that one number and the clock, each request finds
out anew how fresh its answer is; nobody else has to notice that a feed fell silent.

THE PROMISES

P1  No request sent after a revocation was reported effective is answered active in state `current`, on any node.
P2  No node answers `current` more than MAX_SILENCE after it asked the newest question it has an answer to.

THE PROTOCOL

A question is `(instance, nonce, incarnation, applied)`, written by a node's feeder after it noted the time t on
CLOCK_BOOTTIME (which goes on while a machine sleeps). Whoever answers - a projector through Redis, or the feed
service over HTTPS - does, in this order:

    1. reads the question;
    2. admits the instance, in the ledger's database, if it is new; an instance being struck off gets no answer;
    3. reads the ledger's position N';
    4. answers `(nonce, incarnation, N')`.

The feeder, once it sees its own nonce under its own incarnation and has applied everything up to N', publishes
`fresh_until = t + MAX_SILENCE` in the same transaction as what it applied. A worker reads that bound and the
records it answers from in one transaction, and the clock after the request's last byte.

A revocation is *recorded* when its ledger transaction commits at position N. It is *effective* as soon as each
admitted instance has reported `applied >= N` under this incarnation or, for those that do not report, when
MAX_SILENCE plus a margin for clock rates has passed since the commit.

THE PROOF OF P1

Let a worker answer `current` at time x, to a request sent after the revocation at N was reported effective at e;
so e < x. The bound it read gives a question asked at t with x < t + MAX_SILENCE, answered with N' under the node's
incarnation, and records with everything up to N' applied, read in the same transaction as the bound.

  Case A: the commit came before t. The position in the answer was read from the ledger after the question was
  written, hence after t (the nonce is drawn at t and the answer carries it), hence after the commit. So N' >= N,
  N is applied, and the record says that the consent has ended. No active answer.

  Case B: t came before the commit at c. Then x < t + MAX_SILENCE <= c + MAX_SILENCE on this machine's clock, so
  the barrier has not waited out at x (its wait includes the margin by which two clocks' rates may differ, and
  e < x). It was lifted because each admitted instance had reported `applied >= N`.
    - This instance was admitted when the barrier read the list: then it had itself reported `applied >= N` before
      e, and reports only what its replica holds. A worker's transaction begun after e sees it, because the bound is
      believed in that very replica alone: a copy of it is another place, for which nobody has earned one yet. No
      active answer.
    - It was not on the list: it was admitted later, or struck off before. If later, the admission precedes the
      reading of every position it was ever answered with (2 before 3), and came after the barrier read the list,
      which came after the commit: so N' >= N, as in case A. If struck off, no question that it asked after the
      mark in the database was ever answered (1 before 2), so its last bound rests on a t before the mark; and it is
      forgotten only MAX_SILENCE plus margin after the mark, until when the barrier counts it. So when the barrier
      finds it off the list, its last bound has run out. It is not `current`.

P2 holds by the definition of `fresh_until`. Nothing here rests on clocks agreeing, on one leader, on Redis keeping
or ordering anything, or on messages being timely. It rests on: the nonce (an old answer cannot serve a new
question); the incarnation (a restored ledger's positions are never compared with the old one's); the ledger's own
serialisable reads; and clock *rates* differing by less than CLOCK_RATE_MARGIN. A hypervisor that stops BOOTTIME, or
that copies a machine together with its running processes, is outside the promise.

A ledger restored with a gap has lost commits; of those no position speaks. Until an operator lets it go live, no
bound counts as current (`under_recovery`); by then what had been reported effective is written again, so P1 holds for
what was lost as well: docs/decisions/0019-recovering.md.

`last_known` and `blind` promise less, and say so: how long ago the newest answered question was asked.
"""

import enum
from typing import Final

import msgspec

from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import OnSilence, PolicyRecord
from engine.consent.recovery import Recovery

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
    boot_id: str  # of the boot and place that `fresh_until` belongs to (`replica.place`); "" = never been current
    fresh_until: BootTime
    as_of: UnixTime  # wall time at which the newest answered question was asked; 0 = never


class Freshness(msgspec.Struct, frozen=True):
    """What a worker found in the transaction it answers from."""

    state: FreshnessState
    as_of: UnixTime
    last_known_until: UnixTime  # as_of + outage cap, or sooner where the wall clock moved


class Finding(enum.Enum):
    """What bound and clocks say, before it is named."""

    NEVER_ANSWERED = "never_answered"  # no replica of this incarnation, or no question of it was ever answered
    WITHIN_SILENCE = "within_silence"  # same boot, asked less than MAX_SILENCE ago
    WITHIN_CAP = "within_cap"  # asked longer ago, but less than the outage cap
    BEYOND_CAP = "beyond_cap"
    UNTELLABLE = "untellable"  # the bound lies in the future: a clock went backwards, so no age can be told


STATES: Final[dict[Finding, FreshnessState]] = {
    Finding.NEVER_ANSWERED: FreshnessState.BLIND,
    Finding.WITHIN_SILENCE: FreshnessState.CURRENT,
    Finding.WITHIN_CAP: FreshnessState.LAST_KNOWN,
    Finding.BEYOND_CAP: FreshnessState.BLIND,
    Finding.UNTELLABLE: FreshnessState.BLIND,
}

# (state, policy, whether the EDP is registered as handling `last_known`) -> whether it is answered at all.
SERVED: Final[dict[tuple[FreshnessState, OnSilence, bool], bool]] = {
    (state, policy, handles): state is FreshnessState.CURRENT
    or (state is FreshnessState.LAST_KNOWN and policy is OnSilence.CONTINUE and handles)
    for state in FreshnessState
    for policy in OnSilence
    for handles in (False, True)
}

NO_BOOT: Final = "recovering"  # no boot's id: the age of such a bound is told by the wall clock alone

_BLIND: Final = Freshness(FreshnessState.BLIND, UnixTime(0), UnixTime(0))


def freshness_of(
    bound: Bound | None, policy: PolicyRecord, *, boot_id: str, boot: BootTime, now: UnixTime
) -> Freshness:
    """Judge the bound that a worker read together with its records.

    boot_id, boot, now: of this machine, read after the request's last byte. In doubt the state is the worse one.
    """
    if bound is None or not bound.boot_id or not bound.as_of:
        return _BLIND
    same_boot = bound.boot_id == boot_id
    age = boot - bound.fresh_until + MAX_SILENCE if same_boot else float(now - bound.as_of)
    finding = _finding(age, same_boot, policy.outage_cap)
    return Freshness(STATES[finding], bound.as_of, _last_known_until(bound.as_of, age, policy.outage_cap, now))


def under_recovery(bound: Bound, recovery: Recovery | None) -> Bound:
    """The bound that readers may use: while the ledger is recovering, known as of the gap's beginning, never current.

    However new the answered question is, the ledger that answered it does not know what it has lost; what it holds is
    what was known when the gap began (docs/decisions/0019-recovering.md). A bound that is blind stays so.
    """
    if recovery is None or not bound.boot_id or not bound.as_of:
        return bound
    as_of = min(bound.as_of, recovery.gap_from)
    return Bound(bound.incarnation, bound.applied, NO_BOOT, BootTime(0.0), as_of)


def _finding(age: float, same_boot: bool, cap: Seconds) -> Finding:
    """age: seconds since the newest answered question was asked, by the boot clock, or after a boot by the wall."""
    if age < 0:
        return Finding.UNTELLABLE
    if same_boot and age < MAX_SILENCE:
        return Finding.WITHIN_SILENCE
    return Finding.WITHIN_CAP if age < cap else Finding.BEYOND_CAP


def _last_known_until(as_of: UnixTime, age: float, cap: Seconds, now: UnixTime) -> UnixTime:
    """The cap's end as a wall time: the sooner one, if the wall clock moved against the boot clock since."""
    return UnixTime(int(min(as_of + cap, now + cap - age)))
