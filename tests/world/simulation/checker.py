"""Holds every answer against the promises (architecture: freshness), from outside and with the truth at hand.

P1  no request sent after a revocation was reported effective is answered active in `current`
P2  nor does any answer call itself `current` without a question of its own, asked less than MAX_SILENCE ago, and with
    everything applied that the ledger held when it was asked; so nothing that ended longer ago is active in `current`
P6  no last-known answer goes beyond the consent's period, the cap, or an end that this node's replica has held
R   whatever the state: an active answer says what this ledger said at the position it rests on, or after it
P3 and P7 are looked at when the storm is over (`tests.world.simulation.aftermath`).
"""

from typing import TYPE_CHECKING

import msgspec

from admin.ledger.barrier import Standing
from admin.ledger.presence import WAIT_OUT
from engine.clock import Seconds
from engine.consent.records import ConsentKey, consent_key
from engine.consent.states import ENDED, State
from engine.decision.freshness import CLOCK_RATE_MARGIN, MAX_SILENCE, Bound
from engine.feed.entries import Position
from engine.listener.http1 import Response
from engine.replica.reader import Moment
from tests.world.simulation.ledger import Recovering
from tests.world.simulation.template import OUTAGE_CAP
from tests.world.simulation.writes import Write

if TYPE_CHECKING:
    from tests.world.simulation.admins import Done
    from tests.world.simulation.nodes import Machine
    from tests.world.simulation.workers import Asked
    from tests.world.simulation.world import World

ROUNDING = 1.0  # second: `as_of` and the wall clock are whole ones


class Question(msgspec.Struct, frozen=True):
    """A question that was asked: at which true time, by whom, and where the ledger stood."""

    at: float
    instance: str
    head: Position


class Said(msgspec.Struct):
    """What counts of an answer."""

    active: bool
    ccs_freshness: str = ""
    ccs_as_of: int = 0
    ccs_last_known_until: int = 0


class Checker:
    """All that was asked, reported and answered in one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.asked: dict[tuple[str, float], Question] = {}  # by boot id and the `fresh_until` that it may earn
        self.snapshots: dict[tuple[str, float], float] = {}  # (boot id, fresh_until) -> the same, of a snapshot
        self.effective: dict[ConsentKey, float] = {}  # since when it was reported so
        self._before: dict[str, dict[ConsentKey, float]] = {}  # the same, by incarnation that has ended
        self._incarnation = world.store.history.position.incarnation
        self._restored_at = 0.0
        self.told: list[ConsentKey] = []  # ends that an ATP has told to the ledger that recovers

    def acknowledged(self, write: Write, done: "Done") -> None:
        """A caller was told that its write is done."""
        world = self._world
        write.acknowledge(done.receipt, done.effect)
        if not self.stands(write):  # a restore overtook the answer
            write.lose()
        if done.effect is None:
            world.count("receipt: of a grant")
            return
        how = "recorded only" if done.effect.how is None else done.effect.how.value
        world.count(f"receipt: {how}")
        world.tell(f"{write.key.key} {write.consent_id[-4:]} is {how} at {done.receipt.position.seq}")
        if done.effect.state is Standing.EFFECTIVE and self.stands(write):
            self.effective.setdefault(write.consent_key, world.now())
            if world.faulty:
                world.count("receipt: effective under a fault")

    def stands(self, write: Write) -> bool:
        """Whether the ledger has what it acknowledged; what a restore loses was never promised."""
        receipts, history = write.receipts, self._world.store.history
        return bool(receipts) and history.has(write.consent_key, receipts[-1].position.seq)

    def restored(self) -> None:
        """The ledger was replaced: reports that rested on what it has lost are void until it has them again."""
        history = self._world.store.history
        self.told = []
        self._before[self._incarnation] = self.effective
        self._incarnation, self._restored_at = history.position.incarnation, self._world.now()
        self.effective = {key: at for key, at in self.effective.items() if history.ended_at(key) is not None}

    def went_live(self) -> None:
        """A recovery is over: what was told in it is not lost. What nobody has told may be.

        Whatever is current from now on has applied the going live, and every end that was written before it; or it
        stands on the old incarnation, and asked before the restore.
        """
        world = self._world
        history = world.store.history
        for key in self.told:
            if history.state(key) is State.ACTIVE:
                world.wrong("the ledger", "P1: an end that an ATP has told is lost when it goes live", key.hex()[-4:])
        for machine in world.machines:
            if machine.store is None or machine.store.bound is None:
                continue
            if machine.store.bound.incarnation == history.position.incarnation:
                self._look_for_ends(machine)
        for key in history.known():
            if history.state(key) in ENDED:
                self.effective.setdefault(key, max(world.now(), self._restored_at + WAIT_OUT))

    def _look_for_ends(self, machine: "Machine") -> None:
        """A replica comes into use only after the one before it was told of, so the ledger knows all its ends."""
        history = self._world.store.history
        lost = [key for key in machine.files.heard if history.state(key) is State.ACTIVE]
        if lost:
            self._world.wrong(
                machine.name,
                "P1: an end that this node had held is lost when the ledger goes live",
                ", ".join(key.hex()[-4:] for key in lost),
            )

    def answered(self, answer: "Answered") -> None:
        """One answer of a worker."""
        response, machine = answer.response, answer.machine
        said = msgspec.json.decode(response.body, type=Said) if response.status == 200 else None
        state = "unavailable" if said is None else said.ccs_freshness if said.active else "inactive"
        self._world.answer(machine.name, answer.asked.consent_id, state, response.status)
        if response.status not in (200, 503):
            self._world.wrong(machine.name, "an answer that no EDP expects", f"{response.status} {response.body!r}")
        if said is None or not said.active:
            return
        in_state = self._broken_in_current if said.ccs_freshness == "current" else self._broken_in_last_known
        promise = self._broken_always(answer) or in_state(answer, said)
        if promise:
            bound = answer.bound
            about = f"consent {answer.asked.consent_id[-4:]} to a request sent at {answer.asked.sent_at:.3f}"
            rests = f"bound {bound.incarnation[-2:]}:{bound.applied} until {bound.fresh_until:.3f}"
            self._world.wrong(machine.name, promise, f"{about}, {rests}, boot clock {machine.clock.boot():.3f}")

    def _broken_always(self, answer: "Answered") -> str:
        world, machine, bound, key = self._world, answer.machine, answer.bound, answer.key
        if not world.store.history.was_active(bound.incarnation, key, bound.applied):
            return "R: active, and this ledger has not said so at any position that the answer may rest on"
        if machine.files.heard.get(key, world.now()) < answer.asked.sent_at:
            return "P6: active, and the replica of this node has held its end"
        if machine.clock.wall() - answer.stopped >= world.store.made.expires[answer.asked.consent_id]:
            return "P6: active beyond the consent's own period"
        return ""

    def _broken_in_current(self, answer: "Answered", _: Said) -> str:  # noqa: PLR0911 - a list of rules
        since = self._before.get(answer.bound.incarnation, self.effective).get(answer.key)
        if since is not None and since < answer.asked.sent_at:
            return "P1: active in `current` after the revocation was reported effective"
        ended = self._world.store.history.ended_since.get(answer.key)
        if ended is not None and ended + WAIT_OUT < answer.asked.sent_at:
            return "P2: active in `current` too long after the end was committed"
        bound = answer.bound
        found = self.asked.get((answer.machine.boot_id, bound.fresh_until))
        if found is None:
            return "P2: `current`, and no question of this boot bears it out"
        asked_at, head = found.at, found.head
        if self._world.store.leaving.get(found.instance, asked_at) < asked_at:
            return "P2: `current` on a question that was asked by an instance that had been struck off"
        admitted = self._world.store.admitted.get(found.instance, head)
        if admitted.incarnation == bound.incarnation and admitted.seq > bound.applied:
            return "P2: `current` on a position that was read before the instance was admitted"
        if self._world.now() - asked_at > _longest(MAX_SILENCE) + answer.stopped:
            return "P2: `current` on a question that was asked too long ago"
        recovery = self._world.store.history.recoveries.get(bound.incarnation)
        if recovery is not None and _is_before_live(bound, recovery):
            return "P1: `current` while the ledger is recovering"
        if recovery is not None and asked_at < recovery.live_at:
            return "P1: `current` on a question that was asked before the ledger went live"
        if head.incarnation == bound.incarnation and head.seq > bound.applied:
            return "P2: `current` without all that the ledger held when the question was asked"
        return ""

    def _broken_in_last_known(self, answer: "Answered", said: Said) -> str:
        bound, clock = answer.bound, answer.machine.clock
        recovery = self._world.store.history.recoveries.get(bound.incarnation)
        if recovery is not None and _is_before_live(bound, recovery) and said.ccs_as_of > recovery.gap_from:
            return "P6: last known as of a time from which the restored ledger knows nothing"
        place = (bound.boot_id, bound.fresh_until)
        known_at = self.asked[place].at if place in self.asked else self.snapshots.get(place)
        age = clock.wall() - bound.as_of - ROUNDING if known_at is None else self._world.now() - known_at
        if age > _longest(OUTAGE_CAP) + answer.stopped + (place[0] != answer.machine.boot_id) * ROUNDING:
            return "P6: last known beyond the cap"
        if said.ccs_last_known_until > said.ccs_as_of + OUTAGE_CAP + ROUNDING:
            return "P6: an answer that promises more than the cap"
        return ""


class Answered(msgspec.Struct):
    """One answer. stopped: seconds that the process stood still while it worked it out."""

    machine: "Machine"
    asked: "Asked"
    response: Response
    moment: Moment
    stopped: float

    @property
    def key(self) -> ConsentKey:
        return consent_key(self.asked.consent_id)

    @property
    def bound(self) -> Bound:
        """What the transaction found. An active answer has one."""
        assert self.moment.bound is not None
        return self.moment.bound


def _is_before_live(bound: Bound, recovery: Recovering) -> bool:
    return recovery.live_seq is None or bound.applied < recovery.live_seq


def _longest(seconds: Seconds) -> float:
    """As true time, on the slowest clock."""
    return seconds / (1 - CLOCK_RATE_MARGIN) + 0.001
