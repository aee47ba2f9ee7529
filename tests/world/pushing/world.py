"""One world: ledger, outbox, pushers, two EDPs with their guards, and what befalls them; from storm to calm."""

import contextlib
import contextvars
import hashlib
import random as global_random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final
from unittest import mock

import msgspec
import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, ConsentId, Role
from engine.consent.states import ENDED
from engine.guard.shares import Share
from engine.pusher import lease
from tests.support.guard_words import DAY, NOW, share
from tests.support.push_service import push_stream_of
from tests.world.pushing.attacker import Attacker
from tests.world.pushing.checker import Checker
from tests.world.pushing.contacts import Contacts
from tests.world.pushing.faults import Faults
from tests.world.pushing.guards import GuardMachine, in_memory
from tests.world.pushing.keys import signers
from tests.world.pushing.ledger import ATP, EDPS, Ledger, LedgerSide, digest_of, token_of
from tests.world.pushing.nodes import ADDRESSES, SIGNING, Node
from tests.world.pushing.pushers import PusherMachine
from tests.world.simulation.machines import Process, _owner, in_steps, repeatable

STEP: Final = 0.1  # seconds
STORM: Final = 300.0
HEALED: Final = 500.0  # seconds of calm within which everything must be known everywhere
PUSHED: Final = 4_500.0  # and by push alone: waits double up to an hour


class Wrong(msgspec.Struct, frozen=True):
    """A broken promise: at which second, whose, and what is known of it."""

    at: float
    who: str
    promise: str
    detail: str


class World:
    """All of it, for one seed. directory: for the guards' files."""

    def __init__(self, seed: int, directory: Path, clock: MockClock) -> None:
        self.random = Random(seed)  # noqa: S311 - for chance that can be had again, not for secrets
        self.now: Callable[[], float] = clock.current_time
        self.counted: Counter[str] = Counter()
        self.wrongs: list[Wrong] = []
        self.story: list[str] = []
        self._hash = hashlib.blake2b(digest_size=8)
        self._ended = trio.Event()
        self._calming = trio.Event()
        self._processes: list[Process] = []
        self.latency = Seconds(self.random.choice((0.01, 0.04, 0.1)))
        self._loss = self.random.choice((0.3, 1.0, 2.0))
        self.cap = Seconds(self.random.choice((50.0, 100.0, 28_800.0)))  # of an outage, by the EDP's policy
        self.node_cap = self.cap * 3  # of a node's word
        self.signers = [signers()[0]]
        self.admin_down = self.receivers_down = self.dropping = False
        self.nodes = {address: Node() for address in ADDRESSES}
        self.consents_of: dict[str, ConsentId] = {}
        self.checker = Checker(self)
        self.contacts = Contacts(self, SIGNING)
        self.attacker = Attacker(self)
        self.ledger = Ledger(self)
        self.side = LedgerSide(self)
        self.guards: dict[ClientId, GuardMachine] = {edp: GuardMachine(self, edp, directory) for edp in EDPS}
        self.pushers: list[PusherMachine] = []
        self.nursery: trio.Nursery

    async def play(self) -> None:
        """Storm, calm, and the last look; ends at the first broken promise."""
        async with trio.open_nursery() as self.nursery:
            self.start(self._play)
            await self._ended.wait()
            for process in self._processes:
                process.bury()
            self.nursery.cancel_scope.cancel()

    async def _play(self) -> None:
        self.side.change_stream(push_stream_of(ATP, Role.ATP), ATP)
        self.start(self.side.sequence)
        for number in range(2):
            self.start(self._keep_pusher, number)
        for machine in self.guards.values():
            self.start(machine.keep)
            self.start(self._share, machine)
        self.start(self._consumers)
        await trio.sleep(20.0)
        self.start(Faults(self).run)
        self.start(self.attacker.run)
        await self.last(STORM)
        self._calming.set()
        self.tell("calm")
        await self._settle()
        self._ended.set()

    async def _settle(self) -> None:
        """Everything must mend itself now."""
        for left, promise, look in (
            (HEALED, "P4: an event has not reached a guard", self.checker.unhealed),
            (PUSHED, "P4: an event has not reached the ATP", self.checker.unpushed),
        ):
            until = self.now() + left
            while look() and self.now() < until and not self.wrongs:  # noqa: ASYNC110 - it has no event
                await trio.sleep(5.0)
            if missing := look():
                self.wrong("the end", promise, "; ".join(missing[:5]))

    # What goes on.

    async def _consumers(self) -> None:
        for _ in range(4):
            self._grant()
        while not self.calm:
            await self.last(self.random.uniform(1.0, 14.0))
            if self.random.random() < (0.12 if self._nobody_answers else 0.04) or (
                self.ledger.is_suspended(self.now()) and self.random.random() < 0.3
            ):
                self.ledger.suspend()
            elif self.ledger.is_suspended(self.now()) and self.random.random() < 0.4:
                self._end_many()
            elif self.random.random() < 0.45 or not self.ledger.live():
                self._grant()
            else:
                self.ledger.change(self.random.choice(self.ledger.live()))
            self.ledger.expire()

    def _end_many(self) -> None:
        """Consents of the stopped ATP end at once, as an operator ends them, and something else happens behind them."""
        live = self.ledger.live()
        for consent_id in self.random.sample(live, min(len(live), self.random.randint(2, 5))):
            self.ledger.end(consent_id)
        self.count("many ends")
        self._grant()

    def _grant(self) -> None:
        self.ledger.grant()
        consent_id = next(reversed(self.ledger.consents))
        self.consents_of[token_of(consent_id)] = consent_id

    async def _share(self, machine: GuardMachine) -> None:
        """An ATP's requests at one EDP: above all for what was granted or changed last."""
        while not self.calm:
            await trio.sleep(self.random.uniform(0.5, 3.0 if self._nobody_answers else 6.0))
            own = [one for one in self.ledger.consents if machine.client_id in self.ledger.now(one).edps]
            process = machine.process
            if own and process is not None and process.alive and machine.guard is not None:
                consent_id = self.random.choice(self._over(own) or self._known(machine, own) or own[-12:])
                until = self.random.choice((NOW - 2 * DAY, NOW - DAY - 3_600, NOW - DAY))
                asked = share(token=token_of(consent_id), data_from=UnixTime(until - 3_600), data_to=UnixTime(until))
                process.start(self._check, machine, consent_id, asked)

    @property
    def _nobody_answers(self) -> bool:
        return all(node.down is not None for node in self.nodes.values())

    def _known(self, machine: GuardMachine, consents: list[ConsentId]) -> list[ConsentId]:
        """In an outage, those that the guard can say something about."""
        if not self._nobody_answers or self.random.random() < 0.3:
            return []
        return [one for one in consents if machine.memory.look(digest_of(one))]

    def _over(self, consents: list[ConsentId]) -> list[ConsentId]:
        """Those that have ended lately, now and then: nobody ought to ask for them any more."""
        if self.random.random() < 0.75:
            return []
        ended = [one for one in consents if self.ledger.now(one).state in ENDED]
        return [one for one in ended if self.ledger.consents[one][-1].at > self.now() - 120.0]

    async def _check(self, machine: GuardMachine, consent_id: ConsentId, asked: Share) -> None:
        guard, began = machine.guard, self.now()
        if guard is not None:
            verdict = await guard.check(asked)
            self.count(f"verdict: {verdict.reason}")
            self.tell(f"{machine.client_id} judges {consent_id[-4:]} {verdict.reason}")
            self.checker.judged(machine.client_id, consent_id, asked, verdict, began)
            self.contacts.judged(machine.client_id, verdict, began)

    async def _keep_pusher(self, number: int) -> None:
        for life in range(10_000):
            machine = PusherMachine(self, f"pusher-{number}.{life}")
            self.pushers = [one for one in self.pushers if not one.name.startswith(f"pusher-{number}.")] + [machine]
            self.nursery.start_soon(machine.process.run, machine.main)
            await machine.gone.wait()
            await trio.sleep(0.5 if self.calm else self.random.choice((0.5, 5.0, 60.0)))

    def rotate(self) -> None:
        """Another event key from now on; the old ones stay published."""
        if len(self.signers) < len(signers()):
            self.signers.append(signers()[len(self.signers)])

    # What the parts use.

    @property
    def calm(self) -> bool:
        """Whether the storm is over."""
        return self._calming.is_set()

    async def last(self, seconds: float) -> None:
        """Wait for so long, or until the storm is over."""
        with trio.move_on_after(seconds):
            await self._calming.wait()

    def precise(self) -> float:
        """Seconds since 1970."""
        return NOW + self.now()

    def wall(self) -> UnixTime:
        return UnixTime(int(self.precise()))

    def ways(self) -> tuple[float, float]:
        """Seconds to a wire's other end and back: a step of time is longer than both, so one of them takes none."""
        late = self.latency * (1.0 + self.random.random())
        return (late, 0.0) if self.random.random() < 0.5 else (0.0, late)

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task that belongs to no process, whoever calls."""
        context = contextvars.copy_context()
        context.run(_owner.set, None)
        context.run(self.nursery.start_soon, function, *args)

    def process(self, name: str) -> Process:
        self._processes.append(Process(name, self.died))
        return self._processes[-1]

    async def may_die(self, when: str) -> None:
        """The calling process is killed now and then, right here."""
        process = _owner.get()
        if process is not None and process.alive and self.chance(f"guard killed {when}", 0.006):
            self.tell(f"{process.name} dies {when}")
            process.halt()
            self.start(process.kill)
            await trio.lowlevel.checkpoint()

    def chance(self, name: str, share: float) -> bool:
        """Whether a rare thing happens now."""
        happens = not self.calm and self.random.random() < share * self._loss
        if happens:
            self.count(f"fault: {name}")
        return happens

    def call_fails(self, name: str, when: str) -> bool:
        """Whether a call of the pusher's is lost, or its answer."""
        return (self.admin_down and not self.dropping) or self.chance(f"{name} lost {when}", 0.02)

    def draw(self) -> str:
        return f"{self.random.getrandbits(64):016x}"

    def count(self, name: str, times: int = 1) -> None:
        self.counted[name] += times

    def tell(self, what: str) -> None:
        """A line of the story."""
        line = f"{self.now():9.3f}  {what}"
        self._hash.update(line.encode())
        self.story.append(line)

    def wrong(self, who: str, promise: str, detail: str) -> None:
        """A promise is broken."""
        self.tell(f"WRONG {who}: {promise} ({detail})")
        self.wrongs.append(Wrong(round(self.now(), 3), who, promise, detail))
        self._ended.set()

    def died(self, name: str, error: BaseException) -> None:
        """A process has ended by an error of its own."""
        self.wrong(name, "a process dies of nothing", repr(error)[:2000])

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()


class Played(msgspec.Struct, frozen=True):
    """What came of one seed."""

    seed: int
    wrongs: tuple[Wrong, ...]
    counted: dict[str, int]
    seconds: float
    trace_hash: str
    story: tuple[str, ...]


def play(seed: int, directory: Path) -> Played:
    """Play one seed in simulated time; the same seed plays the same play."""
    clock = MockClock(autojump_threshold=0)
    in_steps(clock, STEP)
    global_random.seed(seed)  # waits of the pusher's calls

    async def main() -> World:
        world = World(seed, directory, clock)
        with in_memory(world), contextlib.suppress(trio.Cancelled):
            await world.play()
        return world

    with repeatable(Random(seed)), mock.patch.object(lease, "ASK_EVERY", 8.0):  # noqa: S311 - as above
        world = trio.run(main, clock=clock)
    return Played(
        seed, tuple(world.wrongs), dict(world.counted), clock.current_time(), world.trace_hash, tuple(world.story)
    )
