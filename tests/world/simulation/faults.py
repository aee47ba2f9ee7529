"""What happens to the world: each fault by its name, so that it can be counted, and how often it comes."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from admin.ledger.presence import SILENT_AFTER
from tests.world.simulation.machines import Process
from tests.world.simulation.nodes import Machine
from tests.world.simulation.wires import Wire

if TYPE_CHECKING:
    from tests.world.simulation.world import World

# A node is struck off only by an admin process that has listened to it for long, without a gap.
UNSETTLING = ("admin", "ledger", "machine rebooted", "feeder killed", "node stopped")

Fault = Callable[[], Awaitable[bool]]  # False: there was nothing for it to happen to


class Faults:
    """One storm. A fault that takes a while runs beside the others."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = world.random
        self._pause = 0.4  # seconds between two faults, at most
        self.kinds: dict[str, tuple[int, Fault]] = {
            "redis wiped": (2, self._wipe),
            "redis lost": (2, self._lose),
            "redis rolled back": (4, self._roll_back),
            "redis split": (3, self._split),
            "redis healed": (2, self._heal),
            "redis repeats a command": (3, self._repeat),
            "node cut off from redis": (4, self._cut_redis),
            "node cut off from the feed": (2, self._cut_feed),
            "node cut off": (4, self._cut_node),
            "node's answers lost": (3, self._cut_one_way),
            "admin cut off from redis": (2, self._cut_admin),
            "admin cut off from the database": (2, self._cut_database),
            "projector held up": (8, self._hold_up),
            "records held up": (4, self._hold_up_records),
            "feeder killed": (4, self._kill_feeder),
            "worker killed": (1, self._kill_worker),
            "machine rebooted": (1, self._reboot),
            "machine cloned": (1, self._clone),
            "node stopped for a while": (3, self._stop_node),
            "feeder stopped for a while": (3, self._stop_feeder),
            "worker stopped for a while": (1, self._stop_worker),
            "admin stopped for a while": (3, self._stop_admin),
            "admin killed": (3, self._kill_admin),
            "ledger restored": (6, self._restore),
        }

    async def run(self) -> None:
        """Until the storm is over."""
        world, names = self._world, list(self.kinds)
        if self._random.random() < world.harshness:
            world.nursery.start_soon(self._flap)
            names = [name for name in names if not name.startswith(UNSETTLING)]
            self._pause = 0.9
        if world.has_twin:
            self._pause = 1.2
        weights = [self.kinds[name][0] for name in names]
        while not world.calm:
            await self._world.last(self._random.uniform(0.05, self._pause))
            (name,) = self._random.choices(names, weights)
            if self._random.random() < 0.5:
                world.redis.keep()
                world.store.keep()
            if not world.calm:
                world.nursery.start_soon(self._happen, name)

    async def _happen(self, name: str) -> None:
        self._world.faulty += 1
        if await self.kinds[name][1]():
            self._world.count(f"fault: {name}")
            self._world.tell(f"{name}")
        self._world.faulty -= 1

    def _seconds(self) -> float:
        return self._random.choice((0.1, 0.3, 0.8, 1.5, 2.5)) * self._random.uniform(0.7, 1.3)

    def _machine(self) -> Machine:
        return self._random.choice([machine for machine in self._world.machines if machine.up] or self._world.machines)

    async def _wipe(self) -> bool:
        self._world.redis.wipe()
        return True

    async def _lose(self) -> bool:
        self._world.redis.restart_empty()
        return True

    async def _roll_back(self) -> bool:
        return self._world.redis.roll_back()

    async def _split(self) -> bool:
        return self._world.redis.split()

    async def _heal(self) -> bool:
        self._world.redis.heal()
        return True

    async def _repeat(self) -> bool:
        return self._world.redis.repeat()

    async def _cut_redis(self) -> bool:
        return await self._cut(self._machine().redis_wire)

    async def _cut_feed(self) -> bool:
        return await self._cut(self._machine().feed_wire)

    async def _cut_node(self) -> bool:
        return await self._cut(*self._machine().wires)

    async def _cut_one_way(self) -> bool:
        wire, there = self._random.choice(self._machine().wires), self._random.random() < 0.5
        seconds = self._seconds()
        wire.cut(seconds, there=there, back=not there)
        await self._world.last(seconds)
        return True

    async def _cut_admin(self) -> bool:
        return await self._cut(self._random.choice(self._world.admin_wires).redis)

    async def _cut_database(self) -> bool:
        return await self._cut(self._random.choice(self._world.admin_wires).database)

    async def _hold_up(self) -> bool:
        """Entries do not come by Redis, and to some nodes not by the other way either."""
        late = [self._machine().feed_wire] if self._random.random() < 0.6 else []
        return await self._cut(*[wires.projector for wires in self._world.admin_wires], *late)

    async def _hold_up_records(self) -> bool:
        """Pages of the ledger's records take seconds to come, after a Redis that has to be filled with them."""
        self._world.redis.wipe()
        return await self._cut(*[wires.filler for wires in self._world.admin_wires], there=False)

    async def _cut(self, *wires: Wire, there: bool = True) -> bool:
        seconds = self._seconds()
        for wire in wires:
            wire.cut(seconds, there=there)
        await self._world.last(seconds)
        return True

    async def _flap(self) -> None:
        """A node falls silent for so long that it is struck off, comes back, and goes again."""
        self._world.count("fault: node silent until struck off")
        machine = self._world.machines[0]
        await trio.sleep(self._random.uniform(0.0, 0.4))
        silent = SILENT_AFTER + self._random.uniform(0.3, 1.0)
        for wire in machine.wires:
            wire.cut(silent)
        await self._world.last(silent)
        while not self._world.calm:
            await self._world.last(self._random.uniform(0.05, 0.6))
            for wire in machine.wires:
                wire.cut(self._random.uniform(0.1, 0.8))

    async def _kill_feeder(self) -> bool:
        feeder = self._machine().feeder
        if feeder is None or not feeder.alive:
            return False
        await feeder.kill()
        return True

    async def _kill_worker(self) -> bool:
        machine = self._machine()
        if not (machine.up and machine.workers):
            return False
        await machine.replace_worker()
        return True

    async def _reboot(self) -> bool:
        machine = self._machine()
        if not machine.up:
            return False
        await machine.reboot()
        return True

    async def _clone(self) -> bool:
        return self._world.clone(self._machine())

    async def _stop_node(self) -> bool:
        return await self._stop(self._machine().processes)

    async def _stop_feeder(self) -> bool:
        return await self._stop(self._machine().processes[:1])

    async def _stop_worker(self) -> bool:
        return await self._stop(self._machine().processes[1:2])

    async def _stop_admin(self) -> bool:
        return await self._stop([admin.process for admin in [self._world.any_admin()] if admin is not None])

    async def _stop(self, processes: list[Process]) -> bool:
        for process in processes:
            process.halt()
        await self._world.last(self._seconds())
        for process in processes:
            process.resume()
        return bool(processes)

    async def _kill_admin(self) -> bool:
        admin = self._world.any_admin()
        if admin is None:
            return False
        await admin.process.kill()
        return True

    async def _restore(self) -> bool:
        if not self._world.store.images or self._random.random() < 0.3:
            return False
        await self._world.restore()
        return True
