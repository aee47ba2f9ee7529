"""What befalls the world besides lost messages: processes die or stand still, the service is away, keys change."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from engine.guard.evidence_words import Failure
from tests.world.pushing.nodes import Node

if TYPE_CHECKING:
    from tests.world.pushing.world import World


class Faults:
    """Drawn one after another until it is calm."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._kinds: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (3, "pusher killed", self._kill_pusher),
            (3, "pusher halted", self._halt_pusher),
            (4, "guard killed", self._kill_guard),
            (5, "outage", self._outage),
            (2, "one node away", self._one_away),
            (3, "away and in trouble", self._away_and_in_trouble),
            (3, "nodes behind", self._behind),
            (2, "one node behind", self._one_behind),
            (3, "admin away", self._admin_away),
            (2, "receivers away", self._receivers_away),
            (1, "key rotated", self._rotate),
            (5, "all away but pushes", self._all_but_pushes),
        ]

    async def run(self) -> None:
        world = self._world
        while not world.calm:
            await world.last(world.random.uniform(5.0, 45.0))
            if world.calm:
                return
            weights = [weight for weight, _, _ in self._kinds]
            _, name, act = world.random.choices(self._kinds, weights)[0]
            world.tell(f"fault: {name}")
            world.count(f"fault: {name}")
            world.start(act)

    def _long(self) -> float:
        return self._world.random.choice((3.0, 15.0, 60.0, 200.0, 500.0))

    async def _kill_pusher(self) -> None:
        await self._world.random.choice(self._world.pushers).process.kill()

    async def _halt_pusher(self) -> None:
        at_work = [one for one in self._world.pushers if one.epoch == self._world.side.epoch]
        machine = self._world.random.choice(at_work or self._world.pushers)
        machine.process.halt()
        await self._world.last(self._world.random.choice((1.0, 20.0, 40.0, 60.0)))
        machine.process.resume()

    async def _kill_guard(self) -> None:
        process = self._world.random.choice(list(self._world.guards.values())).process
        if process is not None:
            await process.kill()

    async def _outage(self) -> None:
        how = self._world.random.choice((Failure.CONNECT, Failure.TIMEOUT, Failure.SERVER))
        for node in self._world.nodes.values():
            node.down = how
        length = self._long()
        await self._world.last(length / 2)
        if length >= 60.0 and not self._world.calm:  # a restart in its middle must not make it a shorter one
            for machine in self._world.guards.values():
                if machine.process is not None:
                    await machine.process.kill()
        await self._world.last(length / 2)
        for node in self._world.nodes.values():
            node.down = None

    async def _one_away(self) -> None:
        node = self._world.random.choice(list(self._world.nodes.values()))
        node.down = Failure.CONNECT
        await self._world.last(self._long())
        node.down = None

    async def _away_and_in_trouble(self) -> None:
        """One node is away, and another is there and gives no answers: nobody does, and it is no outage."""
        away, there = self._world.random.sample(list(self._world.nodes.values()), 2)
        away.down = Failure.CONNECT
        there.down = self._world.random.choice((Failure.TLS, Failure.TOO_MANY, Failure.REFUSED))
        await self._world.last(self._long())
        away.down = there.down = None

    async def _behind(self) -> None:
        """The feed does not reach the nodes: they say `last_known`."""
        await self._lag(*self._world.nodes.values())

    async def _one_behind(self) -> None:
        """Another node has a better answer."""
        await self._lag(self._world.random.choice(list(self._world.nodes.values())))

    async def _lag(self, *nodes: Node) -> None:
        for node in nodes:
            node.behind_since = self._world.now()
        await self._world.last(self._long())
        for node in nodes:
            node.behind_since = None

    async def _admin_away(self) -> None:
        self._world.admin_down = True
        await self._world.last(self._long())
        self._world.admin_down = False

    async def _receivers_away(self) -> None:
        self._world.receivers_down = True
        await self._world.last(self._long())
        self._world.receivers_down = False

    async def _all_but_pushes(self) -> None:
        """Nobody can be asked, neither nodes nor listings; pushes come, with holes."""
        world, how = self._world, self._world.random.choice((Failure.CONNECT, Failure.SERVER))
        for node in world.nodes.values():
            node.down = how
        world.admin_down, world.dropping = True, True
        await world.last(world.random.choice((60.0, 120.0)))
        world.admin_down, world.dropping = False, False
        for node in world.nodes.values():
            node.down = None

    async def _rotate(self) -> None:
        self._world.rotate()
        await trio.lowlevel.checkpoint()
