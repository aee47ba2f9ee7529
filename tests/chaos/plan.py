"""What is broken when: drawn from a seed before anything starts, so that a run can be told, printed and made again.

Every kind of fault comes up once before any comes up twice. Mostly they come one after another, at times together,
and now and then everything is left alone for a while, so that what recovers is seen to recover. Pure.
"""

import enum
from collections.abc import Sequence
from random import Random

import msgspec


class What(enum.StrEnum):
    """How something is broken."""

    KILL = "kill -9"  # and started again some time later, by its supervisor or by us
    FREEZE = "freeze"  # SIGSTOP, and SIGCONT at the end
    EMPTY = "lose the data"  # kill -9; it comes back with nothing
    ROLL_BACK = "roll back"  # kill -9; it comes back with an older copy of its data
    REFUSE = "refuse"  # open connections are reset, new ones refused
    BLACK_HOLE = "black hole"  # nothing passes, nobody is told; what waited arrives at the end
    DEAFEN = "one way"  # only answers are lost
    DELAY = "delay"
    CUT = "cut off"  # every connection is reset in the middle of what it carries
    UNAVAILABLE = "answers 503"  # to everybody, as a load balancer without a node behind it
    TOO_MANY = "answers 429"
    MIXED = "each in its own way"  # several links: one refuses, one is a black hole, one answers 503


PROCESS_FAULTS = (What.KILL, What.FREEZE)
LINK_FAULTS = (What.REFUSE, What.BLACK_HOLE, What.DEAFEN, What.DELAY, What.CUT)
DOOR_FAULTS = (What.UNAVAILABLE, What.TOO_MANY)  # of links to nodes: others do not speak HTTP with EDPs
STORE_FAULTS = (What.EMPTY, What.ROLL_BACK)
WAYS_MIXED = (What.REFUSE, What.BLACK_HOLE, What.UNAVAILABLE)
CHILDREN = ("worker", "feeder")  # their supervisor starts them again, nobody else

ALL_EDPS, ALL_NODES = "edps > every node", "every node"
OUTAGE_WAYS = (
    *((what, ALL_EDPS) for what in (What.REFUSE, What.BLACK_HOLE, What.UNAVAILABLE, What.MIXED)),
    *((what, ALL_NODES) for what in (What.KILL, What.FREEZE)),
)

QUIET_BEFORE = 5.0  # seconds of a healthy start, to compare with
QUIET_AFTER = 3.0
TOGETHER = 0.3  # share of faults that come with the one before
OUTAGES = 0.1  # share of the run in which no EDP reaches any node
OUTAGE_EVERY = 150.0  # seconds at least; and how long each is follows from that
CIRCUIT_TAKES = 300.0  # seconds until a guard asks for every share again: buffer, three probes, ramp
SHORTEST_OUTAGE = 4.0  # seconds; in a short run outages are a greater part of it
PAUSE = 0.12  # share of faults that are waited for long
LASTS = ((0.2, 1.0), (1.0, 4.0), (4.0, 9.0))  # below the silence that nodes bear, about it, and beyond striking off
AWAY = (0.3, 3.0)  # seconds until what was killed is started again


class Fault(msgspec.Struct, frozen=True):
    """One fault. at, until: seconds from the start of the load. share: a drawn number for whatever else is chosen."""

    number: int
    at: float
    until: float
    what: What
    target: str
    share: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.what} {self.target} for {self.until - self.at:.1f} s"


class Targets(msgspec.Struct, frozen=True):
    """What there is to break: `node-1/worker` is a process of a node, `node-1 > redis` a link.

    A link may stand for several that break together.
    """

    processes: tuple[str, ...]
    links: tuple[str, ...]
    stores: tuple[str, ...] = ()

    def cards(self) -> list[tuple[What, str]]:
        """Every fault that can be."""
        return [
            *((what, target) for target in self.processes for what in PROCESS_FAULTS),
            *((what, target) for target in self.links for what in LINK_FAULTS),
            *((what, target) for target in self.links if target.startswith("edps >") for what in DOOR_FAULTS),
            *((what, target) for target in self.stores for what in STORE_FAULTS),
        ]


def draw(seed: int, seconds: float, targets: Targets, spread: float = 1.0) -> tuple[Fault, ...]:
    """The plan of a run, in the order of time; all faults end before `seconds`. The same seed gives the same plan.

    spread: so many times the usual time lies between two faults.
    """
    random = Random(seed)  # noqa: S311 - a plan that can be drawn again, no secret
    deck: list[tuple[What, str]] = []
    plan: list[Fault] = []
    at, last = QUIET_BEFORE, seconds - QUIET_AFTER
    while at < last:
        deck = deck or random.sample(targets.cards(), len(targets.cards()))
        card = _next_free(deck, _broken(plan, at))
        lasts = _length(random, *card)
        if at + lasts < last:
            plan.append(Fault(len(plan) + 1, round(at, 2), round(at + lasts, 2), *card, random.random()))
        at += _gap(random) * spread
    return tuple(plan)


def with_outages(plan: Sequence[Fault], seed: int, seconds: float, pace: float = 10.0) -> tuple[Fault, ...]:
    """Outages of the whole service put into a plan, evenly; what would mend them before their time is left out.

    Each way to fail comes first in some run. pace: of guards' circuits; between two outages they have time to close.
    """
    random = Random(f"{seed} outages")  # noqa: S311 - as above
    count = max(1, round(seconds / max(OUTAGE_EVERY, CIRCUIT_TAKES / pace)))
    lasts = max(SHORTEST_OUTAGE, OUTAGES * seconds / count)
    room = seconds - QUIET_BEFORE - QUIET_AFTER
    if room < lasts:
        return tuple(plan)
    slot = room / count
    ways = random.sample(OUTAGE_WAYS, len(OUTAGE_WAYS))
    outages = []
    for number in range(count):
        at = QUIET_BEFORE + number * slot + random.uniform(0.3, 0.7) * (slot - lasts)
        outages.append(Fault(0, round(at, 2), round(at + lasts, 2), *ways[number % len(ways)], random.random()))
    kept = [fault for fault in plan if not any(_meddles(fault, outage) for outage in outages)]
    ordered = sorted([*kept, *outages], key=lambda fault: fault.at)
    return tuple(msgspec.structs.replace(fault, number=number) for number, fault in enumerate(ordered, 1))


def is_outage(fault: Fault) -> bool:
    """Whether no EDP reaches any node meanwhile."""
    return fault.target in (ALL_EDPS, ALL_NODES)


def _meddles(fault: Fault, outage: Fault) -> bool:
    """Whether a fault is of a node, or of the way to one, while all of them are away or come back."""
    near, _, far = fault.target.partition(" > ")
    of_nodes = near == "edps" if far else fault.target.startswith("node-")
    return of_nodes and fault.at < outage.until + QUIET_AFTER and fault.until > outage.at - QUIET_AFTER


def _next_free(deck: list[tuple[What, str]], broken: set[str]) -> tuple[What, str]:
    """The next card whose target is whole; if none is, the next one: breaking it twice does no harm."""
    index = next((index for index, (_, target) in enumerate(deck) if _part(target) not in broken), 0)
    return deck.pop(index)


def _broken(plan: Sequence[Fault], at: float) -> set[str]:
    return {_part(fault.target) for fault in plan if fault.until + 0.5 > at}


def _part(target: str) -> str:
    """A node's processes are one part: whoever has lost its supervisor has no worker to be killed. So are its links."""
    near, _, far = target.partition(" > ")
    if far:
        return target if near == "edps" else f"{near} >"
    return target.partition("/")[0]


def _length(random: Random, what: What, target: str) -> float:
    if what in (What.KILL, *STORE_FAULTS):
        return 0.0 if target.partition("/")[2] in CHILDREN else random.uniform(*AWAY)
    return random.uniform(*random.choice(LASTS))


def _gap(random: Random) -> float:
    drawn = random.random()
    if drawn < TOGETHER:
        return random.uniform(0.0, 0.5)
    return random.uniform(6.0, 10.0) if drawn > 1 - PAUSE else random.uniform(0.5, 4.0)
