"""What a run comes to: everything that the report shows, and as JSON everything that is compared later. Pure."""

from collections.abc import Sequence

import msgspec

from tests.chaos.fates import Fates
from tests.chaos.judge import Violation
from tests.chaos.pairs import Guarded
from tests.chaos.plan import Fault
from tests.chaos.tally import (
    Asked,
    Availability,
    Effect,
    availability,
    by_second,
    effects,
    outcomes,
    quiet,
    seconds_without,
)

States = dict[str, list[tuple[float, str]]]  # of each node: since when, what


class Callers(msgspec.Struct, frozen=True):
    """What EDPs got. latency_ms: of answers, of whatever kind. not_asked: this process could not keep up.

    seconds_without: in which some were asked, and none was answered by any node.
    """

    all: Availability
    handling: Availability
    not_handling: Availability
    quiet: Availability
    outcomes: dict[str, int]
    by_second: dict[str, list[int]]
    effects: list[Effect]
    each_fault: list[Effect]
    latency_ms: dict[str, float]
    not_asked: int
    seconds_without: int = 0


class Account(msgspec.Struct, frozen=True):
    """What was found when all was mended. back: seconds until each node was current with the last event."""

    fates: Fates
    events: int
    back: dict[str, float]
    asked: int


class Told(msgspec.Struct, frozen=True):
    """What the guards had when all was mended. back: seconds until each had the last event of its EDP.

    pushed_late: deliveries that were fetched by poll, and still wait for their turn to be pushed. parked: that nobody
    pushes any more. ends: in the ledger; remembered: of these in the guard's memory. asked: shares, of all guards.
    """

    back: dict[str, float]
    pushed_late: dict[str, int]
    parked: dict[str, int]
    asked: int
    ends: dict[str, int] = {}
    remembered: dict[str, int] = {}


class Guards(msgspec.Struct, frozen=True):
    """The guards of a run. pace: of their circuits' waits. asked_after_told: verdicts that P4 is about.

    exposed: shares after an effective end that had not reached the guard, in an outage, which is lawful. circuits:
    seconds of each guard in each state. lasting: consents that stand for long, and how many of them were ended.
    """

    pace: float
    guarded: Guarded
    states: States
    circuits: dict[str, dict[str, float]]
    lasting: int
    lasting_ended: int
    judged: int
    asked_after_told: int
    fallback_shares: int
    exposed: int
    told: Told


class Results(msgspec.Struct, frozen=True):
    """One run. asked_after_effect: answers that P1 is about; exposed: those active in `last_known`, which is lawful.

    profile: what was broken (`tests.chaos.run`). busy: share of the cores' time that the machine worked meanwhile;
    own: of one core, what this process took, its links included.
    """

    seconds: float
    seed: int
    nodes: int
    ledger: str
    profile: str
    busy: float
    own: float
    plan: tuple[Fault, ...]
    callers: Callers
    states: States
    judged: int
    asked_after_effect: int
    exposed: int
    verified: int
    effective: dict[str, int]
    effective_ms: dict[str, float]
    account: Account
    guards: Guards
    ended_by_themselves: list[str]
    violations: list[Violation]

    @property
    def wrong_actives(self) -> int:
        """Actives that nobody should have got."""
        return sum(one.rule.startswith(("P1", "P2", "P4 told", "P6")) for one in self.violations)

    @property
    def wrong_inactives(self) -> int:
        """Noes to consents that stood."""
        return sum(one.rule == "wrong inactive" for one in self.violations)

    @property
    def lost_events(self) -> int:
        """Of the ledger, of a replica or of a guard."""
        return sum(one.rule in ("P7 lost", "lost event", "P4 arrived") for one in self.violations)

    @property
    def shares_after_told(self) -> int:
        """By a guard that had the end of the consent."""
        return sum(one.rule == "P4 told" for one in self.violations)

    @property
    def shares_after_effect(self) -> int:
        """By a guard, on a `current` answer after the revocation was effective."""
        return sum(one.rule == "P1 guard" for one in self.violations)


def of_callers(
    asked: list[Asked], plan: tuple[Fault, ...], seconds: float, latencies: Sequence[float], not_asked: int
) -> Callers:
    """Count what was asked. latencies: seconds."""
    return Callers(
        all=availability(asked),
        handling=availability(one for one in asked if one.handles_last_known),
        not_handling=availability(one for one in asked if not one.handles_last_known),
        quiet=availability(quiet(asked, plan)),
        outcomes=outcomes(asked),
        by_second={outcome.value: counts for outcome, counts in by_second(asked, int(seconds) + 1).items()},
        effects=effects(asked, plan),
        each_fault=effects(asked, plan, lambda fault: f"{fault.number:03} {fault}"),
        latency_ms=percentiles(latencies),
        not_asked=not_asked,
        seconds_without=seconds_without(asked),
    )


def seconds_in(states: Sequence[tuple[float, str]], seconds: float) -> dict[str, float]:
    """How long each state lasted. states: since when, what; the last one until the end."""
    found: dict[str, float] = {}
    ends = [*(at for at, _ in states[1:]), seconds]
    for (start, state), end in zip(states, ends, strict=False):  # of no states there is no end
        found[state] = found.get(state, 0.0) + max(0.0, end - start)
    return found


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the most, in milliseconds; empty where there is nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1e3 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in shares.items()}
