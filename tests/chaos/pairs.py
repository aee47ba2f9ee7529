"""The same share asked about both ways, raw and through the guard, and what that comes to. Pure.

*Answered* is one thing, *true* another: a check is answered when whoever asks gets a decision, and its answer is true
when it agrees with the consent as it stood. docs/chaos.md defines both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tests.chaos.plan import Fault, is_outage
from tests.chaos.tally import AFTERWARDS
from tests.chaos.verdicts import Said, is_decided

UNSEEN = "denied, undecided, token never introspected"  # a line of its own in the chart


class Pair(msgspec.Struct, frozen=True):
    """at: seconds from the start. raw, retried: whether the first node's answer, or that of a second one, was true.

    said, guarded: what the guard's verdict was, and whether it was true. stands: the consent surely stood meanwhile.
    raw_decided, retried_decided: whether they said yes or no. seen: the guard had introspected the token before.
    lasting: of a consent that stands for longer than the run.
    """

    at: float
    guard: str
    raw: bool
    retried: bool
    said: Said
    guarded: bool
    reason: str = ""
    stands: bool = True
    raw_decided: bool = False
    retried_decided: bool = False
    seen: bool = True
    lasting: bool = False


class Truth(msgspec.Struct, frozen=True):
    """Shares of checks that got an answer, or a true one, of the same checks each way. missed: by the guard."""

    checks: int
    raw: float
    retried: float
    guarded: float
    missed: int = 0

    def reaches(self, share: float) -> bool:
        """Whether the guard answered at least that share of them; of no check nothing is shown."""
        return self.checks > 0 and self.checks - self.missed >= share * self.checks


class Answered(msgspec.Struct, frozen=True):
    """Shares of checks that were answered. seen: of tokens that the guard had introspected before, the headline.

    unseen: of the others, of which no guard may say yes in an outage. seen_unhurt: while nothing was done to the guard
    itself; seen_hurt: the rest. lasting, passing: of seen ones, by population. outages: planned ones.
    """

    all: Truth
    seen: Truth
    unseen: Truth
    seen_unhurt: Truth
    seen_hurt: Truth
    seen_in_outages: Truth
    lasting: Truth
    passing: Truth


class Undecided(msgspec.Struct, frozen=True):
    """Checks that got no decision, of one reason. seconds: of the run, with how many in each."""

    reason: str
    seen: bool
    hurt: bool
    count: int
    seconds: dict[int, int]


class Guarded(msgspec.Struct, frozen=True):
    """What EDPs with a guard got. unhurt: while nothing was done to the guard itself; outages: while no node was there;
    standing: of consents that stood, so that only a yes is true; standing_in_outages: both.

    reasons: of verdicts that shared nothing and decided nothing.
    """

    all: Truth
    unhurt: Truth
    outages: Truth
    standing: Truth
    standing_in_outages: Truth
    answered: Answered
    undecided: list[Undecided]
    outage_seconds: float
    said: dict[str, int]
    reasons: dict[str, int]
    by_second: dict[str, list[int]]


def guarded_by(pairs: Sequence[Pair], plan: Sequence[Fault], seconds: float) -> Guarded:
    """Count them."""
    outages = [fault for fault in plan if is_outage(fault)]
    within = [pair for pair in pairs if _is_within(pair, outages)]
    counted = Counter(pair.said for pair in pairs)
    return Guarded(
        all=truth(pairs),
        unhurt=truth(pair for pair in pairs if not is_hurt(pair, plan)),
        outages=truth(within),
        standing=truth(pair for pair in pairs if pair.stands),
        standing_in_outages=truth(pair for pair in within if pair.stands),
        answered=answered_by(pairs, plan),
        undecided=undecided_by(pairs, plan),
        outage_seconds=sum(fault.until - fault.at for fault in outages),
        said={said.value: counted[said] for said in Said},
        reasons=dict(Counter(pair.reason for pair in pairs if pair.said is Said.UNDECIDED)),
        by_second=_lines(pairs, int(seconds)),
    )


def answered_by(pairs: Sequence[Pair], plan: Sequence[Fault]) -> Answered:
    """Whether there was a decision, whatever it said."""
    outages = [fault for fault in plan if is_outage(fault)]
    seen = [pair for pair in pairs if pair.seen]
    return Answered(
        all=_decided(pairs),
        seen=_decided(seen),
        unseen=_decided(pair for pair in pairs if not pair.seen),
        seen_unhurt=_decided(pair for pair in seen if not is_hurt(pair, plan)),
        seen_hurt=_decided(pair for pair in seen if is_hurt(pair, plan)),
        seen_in_outages=_decided(pair for pair in seen if _is_within(pair, outages)),
        lasting=_decided(pair for pair in seen if pair.lasting),
        passing=_decided(pair for pair in seen if not pair.lasting),
    )


def undecided_by(pairs: Iterable[Pair], plan: Sequence[Fault]) -> list[Undecided]:
    """By reason, those that count most first: of tokens that had been introspected, by guards that were left alone."""
    found: dict[tuple[bool, bool, str], Counter[int]] = {}
    for pair in pairs:
        if not is_decided(pair.said):
            reason = pair.reason if pair.said is Said.UNDECIDED else pair.said.value
            found.setdefault((not pair.seen, is_hurt(pair, plan), reason), Counter())[int(pair.at)] += 1
    return [
        Undecided(reason, not unseen, hurt, sum(seconds.values()), dict(sorted(seconds.items())))
        for (unseen, hurt, reason), seconds in sorted(found.items())
    ]


def truth(pairs: Iterable[Pair]) -> Truth:
    """Shares of true answers of these checks; of none it is whole."""
    return _shares(pairs, lambda pair: (pair.raw, pair.retried, pair.guarded))


def is_hurt(pair: Pair, plan: Iterable[Fault]) -> bool:
    """Whether something was done to the guard itself then."""
    return any(fault.target == pair.guard and fault.at <= pair.at < fault.until + AFTERWARDS for fault in plan)


def _decided(pairs: Iterable[Pair]) -> Truth:
    return _shares(pairs, lambda pair: (pair.raw_decided, pair.retried_decided, is_decided(pair.said)))


def _shares(pairs: Iterable[Pair], of: Callable[[Pair], tuple[bool, bool, bool]]) -> Truth:
    counts, checks = [0, 0, 0], 0
    for pair in pairs:
        checks += 1
        for place, good in enumerate(of(pair)):
            counts[place] += good
    if not checks:
        return Truth(0, 1.0, 1.0, 1.0)
    raw, retried, guarded = (count / checks for count in counts)
    return Truth(checks, raw, retried, guarded, checks - counts[2])


def _lines(pairs: Iterable[Pair], last: int) -> dict[str, list[int]]:
    lines = {name: [0] * (last + 1) for name in (*(said.value for said in Said), UNSEEN)}
    for pair in pairs:
        name = UNSEEN if pair.said is Said.UNDECIDED and not pair.seen else pair.said.value
        lines[name][min(int(pair.at), last)] += 1
    return lines


def _is_within(pair: Pair, faults: Iterable[Fault]) -> bool:
    return any(fault.at <= pair.at < fault.until for fault in faults)
