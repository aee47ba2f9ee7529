"""The same share asked about both ways, raw and through the guard, and what that comes to. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tests.chaos.plan import Fault, is_outage
from tests.chaos.tally import AFTERWARDS
from tests.chaos.verdicts import Said


class Pair(msgspec.Struct, frozen=True):
    """at: seconds from the start. raw, retried: whether the first node's answer, or that of a second one, was true.

    said, guarded: what the guard's verdict was, and whether it was true. stands: the consent surely stood meanwhile.
    """

    at: float
    guard: str
    raw: bool
    retried: bool
    said: Said
    guarded: bool
    reason: str = ""
    stands: bool = True


class Truth(msgspec.Struct, frozen=True):
    """Shares of checks that got a true answer, of the same checks each way."""

    checks: int
    raw: float
    retried: float
    guarded: float


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
    outage_seconds: float
    said: dict[str, int]
    reasons: dict[str, int]
    by_second: dict[str, list[int]]


def guarded_by(pairs: Sequence[Pair], plan: Sequence[Fault], seconds: float) -> Guarded:
    """Count them."""
    outages = [fault for fault in plan if is_outage(fault)]
    within = [pair for pair in pairs if any(fault.at <= pair.at < fault.until for fault in outages)]
    counted = Counter(pair.said for pair in pairs)
    lines = {said: [0] * (int(seconds) + 1) for said in Said}
    for pair in pairs:
        lines[pair.said][min(int(pair.at), int(seconds))] += 1
    return Guarded(
        all=truth(pairs),
        unhurt=truth(pair for pair in pairs if not any(_hurts(fault, pair) for fault in plan)),
        outages=truth(within),
        standing=truth(pair for pair in pairs if pair.stands),
        standing_in_outages=truth(pair for pair in within if pair.stands),
        outage_seconds=sum(fault.until - fault.at for fault in outages),
        said={said.value: counted[said] for said in Said},
        reasons=dict(Counter(pair.reason for pair in pairs if pair.said is Said.UNDECIDED)),
        by_second={said.value: line for said, line in lines.items()},
    )


def truth(pairs: Iterable[Pair]) -> Truth:
    """Of these checks; of none it is whole."""
    pairs = list(pairs)
    if not pairs:
        return Truth(0, 1.0, 1.0, 1.0)
    counts = (sum(pair.raw for pair in pairs), sum(pair.retried for pair in pairs), sum(pair.guarded for pair in pairs))
    return Truth(len(pairs), *(count / len(pairs) for count in counts))


def _hurts(fault: Fault, pair: Pair) -> bool:
    return fault.target == pair.guard and fault.at <= pair.at < fault.until + AFTERWARDS
