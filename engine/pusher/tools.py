"""What all receivers of a tenure share."""

import random
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.alarms import Alarms
from engine.pusher.lease import Tenure
from engine.pusher.outbox import Budget
from engine.pusher.schedule import Reply
from engine.pusher.service import PushService
from engine.pusher.signing import Signing
from engine.pusher.streams import StreamRecord
from engine.pusher.targets import Target
from engine.pusher.telling import Telling
from engine.pusher.turns import Turns

HEARTBEAT: Final = Seconds(60.0)


class Outward(Protocol):
    """The way to receivers; `engine.pusher.egress.Egress`."""

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = ...
    ) -> Reply:
        """One attempt. Raises Unreached. begun: called when it begins, after any wait of our own."""

    def forget(self, client_id: ClientId) -> None:
        """The next connection proves everything anew."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """wall: seconds since 1970. heartbeat: signs one for a stream and a seq."""

    service: PushService
    tenure: Tenure
    signing: Signing
    telling: Telling
    outward: Outward
    turns: Turns
    alarms: Alarms
    budget: Budget
    reading: trio.CapacityLimiter  # of readings of backlogs at once
    wall: Callable[[], float]
    heartbeat: Callable[[StreamRecord, ClientId, int], bytes]
    jitter: Callable[[], float] = random.random
    heartbeat_every: Seconds = HEARTBEAT
