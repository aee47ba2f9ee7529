"""Pusher processes: the real `Pusher` each, killed and stopped at any step, with another one to take over."""

from typing import TYPE_CHECKING

import trio

from engine.clock import Seconds
from engine.pusher.work import Pusher, PusherSettings
from tests.support.push_service import ISSUER
from tests.world.pushing.network import Network
from tests.world.simulation.machines import Process

if TYPE_CHECKING:
    from tests.world.pushing.world import World


class PusherMachine:
    """One process. As `Clocks`, it has the world's."""

    def __init__(self, world: "World", name: str) -> None:
        self._world = world
        self.name = name
        self.process: Process = world.process(name)
        self.gone = trio.Event()
        self.process.at_death.append(self.gone.set)
        settings = PusherSettings(issuer=ISSUER, wait=Seconds(60.0))
        self.pusher = Pusher(
            world.side, Network(world, self), lambda: world.signers[-1], settings, self,
            jitter=world.random.random, holder=name,
        )  # fmt: skip

    @property
    def epoch(self) -> int:
        """Of the lease that it works under, as it thinks."""
        return self.pusher.status().epoch

    def wall(self) -> float:
        return self._world.precise()

    def boot(self) -> float:
        return self._world.now()

    async def main(self, _: Process) -> None:
        self.pusher.begin()
        await self.pusher.run()
