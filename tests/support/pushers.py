"""A pusher on the in-memory ledger's side, with receivers in memory, all in one clock's time."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.events.signing import PemEventSigner, new_event_key
from engine.pusher.connections import Unreached
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.targets import Target
from engine.pusher.tools import HEARTBEAT
from engine.pusher.work import WAIT, Pusher, PusherSettings
from tests.support.deliveries import AT
from tests.support.push_service import AT_ONCE, ISSUER, MemoryPushService

TAKEN: Final = Reply(202)
SIGNER: Final = PemEventSigner.from_pem(new_event_key())

Behaviour = Callable[[bytes], Awaitable[Reply]]


class Clocks:
    """`engine.pusher.work.Clocks` on trio's clock: virtual where that is."""

    def wall(self) -> float:
        return AT + trio.current_time()

    def boot(self) -> float:
        return trio.current_time()


class Pushed(msgspec.Struct, frozen=True):
    """What a receiver was sent. at: trio's clock, when it came."""

    client_id: ClientId
    content: bytes
    at: float


class Receivers:
    """The way to receivers in memory: each behaves as it is told, and takes everything where nothing is said."""

    def __init__(self, latency: Seconds = AT_ONCE) -> None:
        self.pushed: list[Pushed] = []
        self.behaviours: dict[str, Behaviour] = {}
        self.latency = latency
        self.line = AT_ONCE  # how long each attempt waits for a connection before it begins
        self.under_way: dict[str, int] = {}
        self.most_under_way = 0
        self.forgotten: list[str] = []

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = lambda: None
    ) -> Reply:
        if self.line:
            await trio.sleep(self.line)
        begun()
        assert target.host == f"{client_id}.example"
        self.pushed.append(Pushed(client_id, content, trio.current_time()))
        self.under_way[client_id] = self.under_way.get(client_id, 0) + 1
        self.most_under_way = max(self.most_under_way, self.under_way[client_id])
        try:
            behave = self.behaviours.get(client_id)
            if behave is not None:
                return await behave(content)
            await trio.sleep(self.latency)
            return TAKEN
        finally:
            self.under_way[client_id] -= 1

    def forget(self, client_id: ClientId) -> None:
        self.forgotten.append(client_id)

    def of(self, client_id: str) -> list[Pushed]:
        return [one for one in self.pushed if one.client_id == client_id]


def always(reply: Reply) -> Behaviour:
    """Answers so, at once."""

    async def behave(_: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return reply

    return behave


def hanging(seconds: float = 5.0) -> Behaviour:
    """Never answers; the caller gives up after so long."""

    async def behave(_: bytes) -> Reply:
        await trio.sleep(seconds)
        raise Unreached(Trouble.TIMEOUT)

    return behave


def pusher(
    service: MemoryPushService,
    receivers: Receivers,
    *,
    jitter: Callable[[], float] = lambda: 0.5,
    heartbeat_every: Seconds = HEARTBEAT,
    bulk_rate: float = 200.0,
    holder: str = "",
    wait: Seconds = WAIT,
    clocks: Clocks | None = None,
) -> Pusher:
    settings = PusherSettings(issuer=ISSUER, heartbeat_every=heartbeat_every, bulk_rate=bulk_rate, wait=wait)
    made = Pusher(service, receivers, lambda: SIGNER, settings, clocks or Clocks(), jitter=jitter, holder=holder)
    made.begin()
    return made


async def until(holds: Callable[[], bool], within: float = 60.0, every: float = 0.01) -> None:
    """Wait until it holds, by the test's clock."""
    with trio.fail_after(within):
        while not holds():  # noqa: ASYNC110 - what is watched has no event for it
            await trio.sleep(every)
