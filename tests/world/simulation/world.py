"""One world: its parts, who is up, what was counted and told; and the play from storm to calm."""

import contextlib
import hashlib
import sqlite3
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import trio
from trio.testing import MockClock

from engine.consent.records import ConsentId
from engine.feed.redis_names import STREAM
from tests.world.simulation import aftermath
from tests.world.simulation.admins import Admin
from tests.world.simulation.checker import Checker
from tests.world.simulation.clients import Consumers, Edps, key_of
from tests.world.simulation.clocks import MachineClock
from tests.world.simulation.faults import Faults
from tests.world.simulation.ledger import History, Store
from tests.world.simulation.machines import Process, in_steps, repeatable
from tests.world.simulation.nodes import Machine
from tests.world.simulation.recovering import Operator
from tests.world.simulation.redis import Redis
from tests.world.simulation.redis_links import Hints
from tests.world.simulation.replicas import Files, clone
from tests.world.simulation.template import NODES, Template, fresh
from tests.world.simulation.wires import Wire
from tests.world.simulation.writes import Write

STORM = 2.2  # seconds
TWIN_STORM = 3.6  # so that a twin becomes current, and is cut off while it is
LONG_STORM = 8.2  # so that a node can be struck off, forgotten and admitted anew
STEP = 0.006  # seconds; messages take about as long
HARSH = (0.0, 0.0, 0.0, 1.0)  # every fourth world has a long storm


class Wrong(msgspec.Struct, frozen=True):
    """A broken promise: at which second, whose, and what is known of it."""

    at: float
    who: str
    promise: str
    detail: str


class AdminWires(msgspec.Struct):
    """What one admin process hangs on."""

    database: Wire
    redis: Wire
    projector: Wire  # to the database
    filler: Wire  # to the database


class World:
    """All of it, for one seed. directory: for the replicas; best in memory."""

    def __init__(self, seed: int, directory: Path, clock: MockClock, made: Template) -> None:
        self.random = Random(seed)  # noqa: S311 - for chance that can be had again, not for secrets
        self._directory = directory
        self.now = clock.current_time
        self.counted: Counter[str] = Counter()
        self.wrongs: list[Wrong] = []
        self.story: list[str] = []
        self._hash = hashlib.blake2b(digest_size=8)
        self._ended = trio.Event()
        self.calming = trio.Event()
        self.faulty = 0  # faults that last
        self.trying = 0  # consumers that wait for an answer, or will ask again
        self.harshness = HARSH[seed % len(HARSH)]
        self.has_twin = seed % len(HARSH) == 1  # from early on
        self._slow, self._loss = self.random.choice(((0.001, 0.0), (0.005, 0.005), (0.03, 0.01)))
        self.store = Store(made, History(), self.now)
        self.redis = Redis(self.random, self.now, self._skipped)
        self.hints = Hints(self.random)
        self.admin_clock = MachineClock(self.now, self.random.choice((0.99, 1.0, 1.01)))
        count = 1 + self.random.randrange(2)
        self.admin_wires = [AdminWires(self.wire(0.1), self.wire(), self.wire(), self.wire()) for _ in range(count)]
        self.consumer_wire = self.wire()
        self.admins: list[Admin | None] = [None] * count
        self.machines: list[Machine] = []
        self.writes: list[Write] = []
        self.checker = Checker(self)
        self.store.at_live = self.checker.went_live
        self.edps = Edps(self)
        self.nursery: trio.Nursery
        self._processes: list[Process] = []

    async def play(self) -> None:
        """Storm, calm, and the last look; ends at the first broken promise."""
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self._play)
            await self._ended.wait()
            for process in self._processes:
                process.bury()
            self.nursery.cancel_scope.cancel()
        for machine in self.machines:
            machine.files.close()

    async def _play(self) -> None:
        nursery, random = self.nursery, self.random
        for number in range(len(self.admins)):
            nursery.start_soon(self._keep_admin, number)
        for number in range(2 + (random.random() < 0.2)):
            nursery.start_soon(self._join, NODES[number], number * random.uniform(0.0, 0.8))
        await trio.sleep(0.4)
        consumers = Consumers(self)
        nursery.start_soon(self.edps.ask)
        nursery.start_soon(self.edps.watch_expiries)
        nursery.start_soon(consumers.revoke)
        nursery.start_soon(Faults(self).run)
        if self.has_twin:
            nursery.start_soon(self._clone_soon)
        await trio.sleep(LONG_STORM if self.harshness else TWIN_STORM if self.has_twin else STORM)
        self.calming.set()
        self.tell("calm")
        await aftermath.settle(self)
        if not self.wrongs:
            aftermath.look(self)
        self._ended.set()

    @property
    def calm(self) -> bool:
        """Whether the storm is over."""
        return self.calming.is_set()

    async def last(self, seconds: float) -> None:
        """Wait for so long, or until the storm is over."""
        with trio.move_on_after(seconds):
            await self.calming.wait()

    def wire(self, share: float = 1.0) -> Wire:
        return Wire(self.random, self.count, slow=self._slow * share, loss=self._loss * share)

    def draw(self) -> str:
        """Random hexadecimal digits."""
        return f"{self.random.getrandbits(64):016x}"

    def chance(self, name: str, share: float) -> bool:
        """Whether a rare thing happens now."""
        happens = not self.calm and self.random.random() < share
        if happens:
            self.count(f"fault: {name}")
        return happens

    def count(self, name: str, times: int = 1) -> None:
        self.counted[name] += times

    def tell(self, what: str) -> None:
        """A line of the story."""
        line = f"{self.now():9.4f}  {what}"
        self._hash.update(line.encode())
        self.story.append(line)

    def answer(self, who: str, about: ConsentId, state: str, status: int) -> None:
        """An EDP was answered."""
        self.count(f"request: {state}")
        self.tell(f"{who} answers {about[-4:]} {state} {status}")

    def wrong(self, who: str, promise: str, detail: str) -> None:
        """A promise is broken."""
        self.tell(f"WRONG {who}: {promise} ({detail})")
        self.wrongs.append(Wrong(round(self.now(), 4), who, promise, detail))
        self._ended.set()

    def _skipped(self, stream: bytes, last: int, number: int) -> None:
        """Redis was given an entry that does not follow the one before."""
        between = self.store.made.connection.execute(
            "SELECT count(*) FROM events WHERE seq > ? AND seq < ?", (last, number)
        ).fetchone()[0]
        if stream == STREAM and between:
            self.wrong("redis", "P3: an entry was left out of the stream", f"{number} after {last}")

    def died(self, name: str, error: BaseException) -> None:
        """A process has ended by an error of its own."""
        self.wrong(name, "a process dies of nothing", repr(error)[:2000])

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    def write(self, kind: str, about: ConsentId) -> Write:
        """A new write, with a key of its own."""
        self.writes.append(Write(kind, about, key_of(len(self.writes))))
        return self.writes[-1]

    def process(self, name: str) -> Process:
        """A new process. Run it in `nursery`."""
        self._processes.append(Process(name, self.died))
        return self._processes[-1]

    def any_admin(self) -> Admin | None:
        """Whichever a balancer would choose."""
        return self.random.choice(self.admins)

    async def nobody_there(self, wire: Wire) -> None:
        """What a call costs that is refused."""
        await trio.sleep(0.001 + wire.loss)

    async def _keep_admin(self, number: int) -> None:
        while True:
            gone = trio.Event()
            process = self.process(f"admin-{number}")
            process.at_death.append(gone.set)
            admin = Admin(self, number, process)
            self.nursery.start_soon(process.run, admin.main)
            await gone.wait()
            self.admins[number] = None
            await trio.sleep(self.random.uniform(0.1, 1.0))

    def admin_is_up(self, admin: Admin) -> None:
        """It takes calls from now on."""
        self.admins[admin.number] = admin

    async def _join(self, name: str, after: float) -> None:
        await trio.sleep(after)
        files = Files(self._directory / name, self.now)
        self.machines.append(Machine(self, name, name, files, 1 + (self.random.random() < 0.3)))
        self.machines[-1].boot()

    async def _clone_soon(self) -> None:
        """A twin from early on, which then does not hear of everything that its other half hears of."""
        await trio.sleep(self.random.uniform(0.1, 0.6))
        if not self.clone(self.machines[0]):
            return
        self.count("fault: machine cloned")
        twin = self.machines[-1]
        while not self.calm:
            await self.last(self.random.uniform(0.3, 0.6))
            seconds = self.random.uniform(0.6, 1.4)
            for wire in twin.wires:
                wire.cut(seconds)
            await self.last(seconds)

    def clone(self, source: Machine) -> bool:
        """Somebody starts a copy of a node's disk; at most one in a world."""
        if len(self.machines) > len(NODES) or any(m.name.endswith("-clone") for m in self.machines):
            return False
        files = clone(source.files, self._directory / f"{source.name}-clone", self.now)
        self.machines.append(Machine(self, f"{source.name}-clone", source.node_id, files, 1))
        self.machines[-1].boot()
        return True

    async def restore(self) -> None:
        """The ledger goes on from a backup; admin processes see it happen, or are stopped for it."""
        if self.random.random() < 0.5:
            for admin in [admin for admin in self.admins if admin is not None]:
                await admin.process.kill()
        self.restore_now(self.random.choice(self.store.images))

    def restore_now(self, image: sqlite3.Connection) -> None:
        """The act itself."""
        self.store.restore(image, wall=self.admin_clock.wall())
        for write in self.writes:
            if not self.checker.stands(write):
                write.lose()
                self.edps.touch(write.consent_id)
        self.checker.restored()
        if self.store.history.recovering is not None:
            self.nursery.start_soon(Operator(self).let_live)


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

    async def main() -> World:
        with fresh() as made:
            world = World(seed, directory, clock, made)
            with contextlib.suppress(trio.Cancelled):
                await world.play()
        return world

    with repeatable(Random(seed)):  # noqa: S311 - as above
        world = trio.run(main, clock=clock)
    return Played(
        seed,
        tuple(world.wrongs),
        dict(world.counted),
        clock.current_time(),
        world.trace_hash,
        tuple(world.story),
    )
