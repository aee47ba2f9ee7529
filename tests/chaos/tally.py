"""What callers got, second by second, and what each kind of fault did to it. Pure."""

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tests.chaos.plan import Fault

AFTERWARDS = 2.0  # seconds after a fault in which what it broke is still its doing


class Outcome(enum.StrEnum):
    """What became of one request at one node."""

    CURRENT = "active, current"
    LAST_KNOWN = "active, last known"
    INACTIVE = "inactive"
    UNAVAILABLE = "503"
    TOO_MANY = "429"
    OTHER = "another status"
    BROKEN = "broken off"
    SILENT = "time-out"
    UNREACHABLE = "no connection"


ANSWERED = (Outcome.CURRENT, Outcome.LAST_KNOWN, Outcome.INACTIVE)


class Asked(msgspec.Struct, frozen=True):
    """One question of an EDP. at: seconds from the start. second: at another node, where the first gave no answer."""

    at: float
    handles_last_known: bool
    node: str
    first: Outcome
    second: Outcome | None = None

    @property
    def last(self) -> Outcome:
        """What the EDP went on with."""
        return self.second or self.first


class Availability(msgspec.Struct, frozen=True):
    """Shares of questions that were answered: by the first node asked, and with one try elsewhere."""

    questions: int
    raw: float
    retried: float


class Effect(msgspec.Struct, frozen=True):
    """What callers got while a kind of fault lasted, and for two seconds after. times: how often it came."""

    fault: str
    times: int
    availability: Availability
    last_known: float  # share of the active answers


def availability(asked: Iterable[Asked]) -> Availability:
    """Of these questions; of none it is whole."""
    asked = list(asked)
    if not asked:
        return Availability(0, 1.0, 1.0)
    raw = sum(one.first in ANSWERED for one in asked) / len(asked)
    return Availability(len(asked), raw, sum(one.last in ANSWERED for one in asked) / len(asked))


def by_second(asked: Iterable[Asked], seconds: int) -> dict[Outcome, list[int]]:
    """How many of each outcome, at the first node asked, in each second of the run."""
    lines = {outcome: [0] * seconds for outcome in Outcome}
    for one in asked:
        lines[one.first][min(int(one.at), seconds - 1)] += 1
    return lines


def outcomes(asked: Iterable[Asked]) -> dict[str, int]:
    """How often each came, at the first node asked."""
    counted = Counter(one.first for one in asked)
    return {outcome.value: counted[outcome] for outcome in Outcome}


def kind_of(fault: Fault) -> str:
    """The fault without the number of its node: `kill -9 worker`, `delay node > redis`."""
    target = fault.target.partition("/")[2] or fault.target
    return f"{fault.what} {''.join(letter for letter in target if not letter.isdigit()).replace('node-', 'node')}"


def effects(asked: Sequence[Asked], plan: Iterable[Fault], name: Callable[[Fault], str] = kind_of) -> list[Effect]:
    """For each kind of fault in alphabetical order. Faults that overlap share what happened meanwhile."""
    kinds: dict[str, list[Fault]] = {}
    for fault in plan:
        kinds.setdefault(name(fault), []).append(fault)
    return [_effect(kind, faults, asked) for kind, faults in sorted(kinds.items())]


def seconds_without(asked: Iterable[Asked]) -> int:
    """Seconds of the run in which no node answered any of what was asked in them, not even another one."""
    seconds: dict[int, bool] = {}
    for one in asked:
        seconds[int(one.at)] = seconds.get(int(one.at), False) or one.last in ANSWERED
    return sum(not answered for answered in seconds.values())


def quiet(asked: Iterable[Asked], plan: Sequence[Fault]) -> list[Asked]:
    """What was asked while nothing was broken."""
    return [one for one in asked if not any(_within(one, fault) for fault in plan)]


def _effect(kind: str, faults: list[Fault], asked: Iterable[Asked]) -> Effect:
    within = [one for one in asked if any(_within(one, fault) for fault in faults)]
    active = Counter(one.first for one in within)
    known = active[Outcome.LAST_KNOWN]
    return Effect(kind, len(faults), availability(within), known / max(1, known + active[Outcome.CURRENT]))


def _within(one: Asked, fault: Fault) -> bool:
    return fault.at <= one.at < fault.until + AFTERWARDS
