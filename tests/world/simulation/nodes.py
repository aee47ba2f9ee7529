"""A node's machine: a feeder and workers that come back when they die, on files and clocks that outlive them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import trio

from engine.decision.freshness import CLOCK_RATE_MARGIN, MAX_SILENCE
from engine.feed.redis_client import RedisClient
from engine.replica.feeder import Feeder
from engine.replica.over_redis import RedisLinks
from tests.support.replicas import MAC_KEY
from tests.world.simulation.checker import Question
from tests.world.simulation.clocks import MachineClock
from tests.world.simulation.feed_clients import MadeFeedClient
from tests.world.simulation.machines import Process
from tests.world.simulation.preemption import Preemption
from tests.world.simulation.redis_links import Link
from tests.world.simulation.replicas import Files, WatchedStore, place_of
from tests.world.simulation.wires import Wire
from tests.world.simulation.workers import Worker

if TYPE_CHECKING:
    from tests.world.simulation.world import World


class Machine:
    """One node. files: what its disk holds."""

    def __init__(self, world: "World", name: str, node_id: str, files: Files, workers: int) -> None:
        self.world, self.name, self.node_id, self.files = world, name, node_id, files
        rate = world.random.choice((1 - CLOCK_RATE_MARGIN, 1.0, 1 + CLOCK_RATE_MARGIN))
        self.clock = MachineClock(world.now, rate)
        if rate != 1.0:
            world.count("fault: clock at the margin")
        self.boot_id = world.draw()
        self.redis_wire, self.feed_wire = world.wire(), world.wire()
        self.up = False
        self.instance = ""
        self.preemption: Preemption[object] | None = None
        self.feeder: Process | None = None
        self.store: WatchedStore | None = None
        self.workers: list[Worker] = []
        self._count = workers

    @property
    def wires(self) -> Sequence[Wire]:
        return self.redis_wire, self.feed_wire

    @property
    def processes(self) -> list[Process]:
        found = [worker.process for worker in self.workers]
        return found if self.feeder is None else [self.feeder, *found]

    def boot(self) -> None:
        """Start everything."""
        self.up = True
        self.world.tell(f"{self.name} boots")
        self.world.nursery.start_soon(self._keep_feeding)
        for number in range(self._count):
            self.workers.append(self._worker(number))

    async def reboot(self) -> None:
        """The machine goes down without a word and comes back, with a clock that begins anew."""
        self.up = False
        for process in self.processes:
            await process.kill()
        await trio.sleep(self.world.random.uniform(0.2, 1.0))
        self.files.close()
        self.boot_id = self.world.draw()
        self.clock.reboot()
        self.workers = []
        self.boot()

    async def replace_worker(self) -> None:
        """Kill one; the supervisor starts another."""
        number, workers = self.world.random.randrange(len(self.workers)), self.workers
        await workers[number].process.kill()
        if self.workers is workers:
            workers[number] = self._worker(number)

    def point(self) -> None:
        """A worker passes a point where it may be stopped."""
        if self.preemption is not None:
            self.preemption.point()

    def may_be_preempted(self) -> bool:
        """One worker at a time, and not while a feeder waits for the file's handle."""
        return self.preemption is None and self.feeder is not None and self.feeder.alive and not self.world.calm

    def note_question(self) -> None:
        """A question is being asked: its answer may be built on until then."""
        place = (self.boot_id, self.clock.boot() + MAX_SILENCE)
        head = self.world.store.history.position
        self.world.checker.asked[place] = Question(self.world.now(), self.instance, head)

    def note_snapshot(self) -> None:
        """A snapshot is being asked for: it is as good as last known from then."""
        self.world.checker.snapshots[(self.boot_id, self.clock.boot())] = self.world.now()

    def _worker(self, number: int) -> Worker:
        worker = Worker(self, self.world.process(f"{self.name}/worker-{number}"))
        self.world.nursery.start_soon(worker.process.run, worker.main)
        return worker

    async def _keep_feeding(self) -> None:
        boot_id = self.boot_id
        while True:
            while self.preemption is not None:  # noqa: ASYNC110 - its transaction hangs on the file's handle
                await trio.sleep(0.05)
            if not self.up or self.boot_id != boot_id:
                return
            self.files.close()
            gone = trio.Event()
            self.feeder = self.world.process(f"{self.name}/feeder")
            self.feeder.at_death.append(gone.set)
            self.world.nursery.start_soon(self.feeder.run, self._feed)
            await gone.wait()
            await trio.sleep(self.world.random.uniform(0.0, 0.8))

    async def _feed(self, process: Process) -> None:
        store = self.store = WatchedStore(self)
        process.at_death.append(store.let_go)
        bound, world = store.bound, self.world
        world.tell(f"{process.name} starts {'without a replica' if bound is None else f'at {place_of(bound)}'}")
        tail, asks = (
            cast("RedisClient", Link(world.redis, self.redis_wire, world.random, world.hints)) for _ in range(2)
        )
        self.instance = self.draw_instance()
        await Feeder(
            store,
            MadeFeedClient(world, self.node_id, self.feed_wire),
            RedisLinks(tail, asks),
            node_id=self.node_id,
            instance=self.instance,
            boot_id=self.boot_id,
            mac_keys=(MAC_KEY,),
            clock=self.clock,
            draw=self._draw_nonce,
            jitter=world.random.random,
            kept=lambda ends: world.count("ends kept over a restore", len(ends)),
        ).run()

    def draw_instance(self) -> str:
        return self.world.draw()

    def _draw_nonce(self) -> str:
        self.note_question()
        return self.world.draw()
