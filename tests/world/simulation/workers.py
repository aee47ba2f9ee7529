"""A worker: the real endpoint over the real reader, one request after the other, as EDPs send them."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec
import trio

from engine.clock import BootTime, UnixTime
from engine.consent.records import ClientId, ConsentId
from engine.decision.freshness import CLOCK_RATE_MARGIN
from engine.listener.callers import Callers
from engine.listener.http1 import Request, Response
from engine.listener.introspection import Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import RedisReadThrough
from engine.listener.security import SecurityEvent
from engine.listener.tls import Peer
from engine.tokens.memo import VerifiedTokens
from tests.support.consents import METER_KEY
from tests.support.replicas import MAC_KEY
from tests.world.simulation.checker import Answered
from tests.world.simulation.feed_clients import MadeFeedClient
from tests.world.simulation.machines import Process
from tests.world.simulation.preemption import Preemption
from tests.world.simulation.redis_links import Link
from tests.world.simulation.replicas import SharedReplica
from tests.world.simulation.template import FAR, ISSUER, thumbprint

if TYPE_CHECKING:
    from tests.world.simulation.nodes import Machine

PREEMPTED = (0.005, 0.12)  # of the requests; more where something is happening to the consent
STOPS = (0.05, 0.2, 0.5, 1.5)  # seconds
POINTS = 5  # about how many a request passes


class Asked(msgspec.Struct, frozen=True):
    """One request. sent_at: the true time, in seconds."""

    consent_id: ConsentId
    edp: ClientId
    request: Request
    sent_at: float


class Silent:
    """Security events are another test's."""

    def record(self, _event: SecurityEvent) -> None: ...


class PointedClock:
    """The machine's clocks, as a process reads them that may be stopped before each reading."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    def now(self) -> UnixTime:
        self._machine.point()
        return self._machine.clock.now()

    def boot(self) -> BootTime:
        self._machine.point()
        return self._machine.clock.boot()


class Worker:
    """One life of a worker process."""

    def __init__(self, machine: "Machine", process: Process) -> None:
        world = machine.world
        self._machine, self.process = machine, process
        self._inbox: list[Asked] = []
        self._arrived = trio.Event()
        self._unfinished = 0
        self._preemption: Preemption[Response | Awaitable[Response]] | None = None
        self._replica = SharedReplica(machine)
        self._endpoint = Introspection(
            replica=self._replica,
            memo=VerifiedTokens(1_000),
            meter_key=METER_KEY,
            clock=PointedClock(machine),
            boot_id=machine.boot_id,
            read_through=RedisReadThrough(Link(world.redis, machine.redis_wire, world.random, world.hints), (MAC_KEY,)),
            claims=MadeFeedClient(world, machine.node_id, machine.feed_wire),
            callers=Callers(Silent()),
            keys=IssuerKeys(ISSUER),
            counts={outcome: lambda: None for outcome in Outcome},
        )

    def send(self, asked: Asked) -> None:
        """A request arrives; it waits while the process is stopped."""
        self._inbox.append(asked)
        self._arrived.set()

    async def main(self, process: Process) -> None:
        """Answer until the process ends."""
        process.at_death.append(self._leave)
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._inbox:
                await self._handle(self._inbox.pop(0))

    async def _handle(self, asked: Asked) -> None:
        peer = Peer(thumbprint(asked.edp), FAR)
        random = self._machine.world.random
        stopped = 0.0
        often = asked.consent_id in self._machine.world.edps.newest
        # The whole process stands still; so it must not be in the middle of anything else.
        if random.random() < PREEMPTED[often] and not self._unfinished and self._machine.may_be_preempted():
            began = self._machine.world.now()
            response = await self._preempted(asked.request, peer, random.choice(STOPS))
            stopped = (self._machine.world.now() - began) * (1 + CLOCK_RATE_MARGIN)
        else:
            response = self._endpoint(asked.request, peer)
        if isinstance(response, Response):
            self._answered(asked, response, stopped)
        else:
            self._unfinished += 1
            self.process.start(self._finish, asked, response)

    async def _preempted(self, request: Request, peer: Peer, seconds: float) -> Response | Awaitable[Response]:
        world = self._machine.world
        at = 1 + world.random.randrange(POINTS)
        preemption = Preemption(lambda: self._endpoint(request, peer), at=at, seconds=seconds)
        self._machine.preemption = self._preemption = preemption
        world.count("fault: preempted request")
        try:
            return await preemption.run()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._machine.preemption is self._preemption:
            self._machine.preemption = None

    async def _finish(self, asked: Asked, response: Awaitable[Response]) -> None:
        self._answered(asked, await response)
        self._unfinished -= 1

    def _answered(self, asked: Asked, response: Response, stopped: float = 0.0) -> None:
        answer = Answered(self._machine, asked, response, self._replica.last_moment, stopped)
        self._machine.world.checker.answered(answer)
