"""The pusher: takes the lease, works while it certainly holds it, stops everything when it may not.

Under a lease every part is begun anew from the outbox: nothing is carried over from an earlier one. The lanes are
pulled side by side, so that a flood in one, or of one receiver, delays nobody else.
"""

import enum
import itertools
import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId
from engine.errors import Fault
from engine.events.sets import drawn_jti, event_claims, heartbeat_claims
from engine.events.signing import EventSigner
from engine.pusher import lease
from engine.pusher.alarms import Alarms
from engine.pusher.calls import until_answered
from engine.pusher.lease import Tenure
from engine.pusher.outbox import Budget
from engine.pusher.receiver import ReceiverStatus
from engine.pusher.roster import Actors
from engine.pusher.service import Delivery, Lane, LeaseLost, PushService
from engine.pusher.signing import Signing
from engine.pusher.streams import StreamRecord
from engine.pusher.telling import Telling
from engine.pusher.tools import HEARTBEAT, Outward, Tools
from engine.pusher.turns import Turns
from engine.telemetry import logs

PAGE: Final = 500
WAIT: Final = Seconds(20.0)
READINGS: Final = 4  # backlogs read at once
AHEAD: Final = 2.0  # bulk deliveries are signed for poll so many times faster than they are pushed
DRAIN_LOOK: Final = Seconds(0.02)

_log = logs.logger("pusher")


class Clocks(Protocol):
    """wall: seconds since 1970, with fractions. boot: seconds since this boot, sleep included."""

    def wall(self) -> float: ...
    def boot(self) -> float: ...


class PusherState(enum.StrEnum):
    """Where a pusher is."""

    STARTING = "starting"  # the ledger's side has not answered yet
    STANDBY = "standby"  # another one works
    WORKING = "working"
    STOPPED = "stopped"


class PusherSettings(msgspec.Struct, frozen=True, kw_only=True):
    """issuer: of the events. bulk_rate: deliveries a second. drain_timeout: bounds the end. wait: of long polls."""

    issuer: str
    bulk_rate: float = 200.0
    drain_timeout: Seconds = Seconds(10.0)
    heartbeat_every: Seconds = HEARTBEAT
    wait: Seconds = WAIT


class PusherStatus(msgspec.Struct, frozen=True):
    """As of now. epoch: of the lease; 0 = it has none. untold: outcomes on their way."""

    state: PusherState
    epoch: int
    lease_left: float
    signed: int
    untold: int
    receivers: tuple[ReceiverStatus, ...]


class Pusher:
    """signer: the event key to use now. holder: drawn at each start."""

    def __init__(
        self,
        service: PushService,
        outward: Outward,
        signer: Callable[[], EventSigner],
        settings: PusherSettings,
        clocks: Clocks,
        *,
        jitter: Callable[[], float] = random.random,
        holder: str = "",
    ) -> None:
        self._service = service
        self._outward = outward
        self._signer = signer
        self._settings = settings
        self._clocks = clocks
        self._jitter = jitter
        self._holder = holder or secrets.token_hex(16)
        self._numbers = itertools.count(1)  # of what is told
        self._stopping = trio.Event()
        self._may_begin = trio.Event()
        self._tenure: Tenure | None = None
        self._actors: Actors | None = None
        self._telling: Telling | None = None
        self._signing: Signing | None = None
        self.state = PusherState.STARTING

    async def run(self) -> None:
        """From `begin` until `stop` was called and what was under way has ended."""
        await self._may_begin.wait()
        while not self._stopping.is_set():
            tenure = await self._take_lease()
            if tenure is not None:
                await self._work_under(tenure)
        self.state = PusherState.STOPPED

    def begin(self) -> None:
        """There is a key to sign with."""
        self._may_begin.set()

    def stop(self) -> None:
        """Begin nothing more, finish what is under way, give the lease up."""
        self._stopping.set()
        self._may_begin.set()

    def status(self) -> PusherStatus:
        """As of now."""
        tenure = self._tenure
        return PusherStatus(
            state=self.state,
            epoch=tenure.epoch if tenure else 0,
            lease_left=max(0.0, tenure.left) if tenure else 0.0,
            signed=self._signing.signed_count if self._signing else 0,
            untold=self._telling.untold if self._telling else 0,
            receivers=tuple(actor.status() for actor in self._actors) if self._actors else (),
        )

    async def _take_lease(self) -> Tenure | None:
        """None: another has it, or nobody answers; after a while."""
        try:
            tenure = await lease.take(self._service, self._holder, self._clocks.boot)
        except Fault as fault:
            _log.warning("lease_not_asked", text=fault.text, detail=fault.detail)
        else:
            self.state = PusherState.STANDBY
            if tenure is not None:
                return tenure
        with trio.move_on_after(lease.ASK_EVERY * (0.8 + 0.4 * self._jitter())):
            await self._stopping.wait()
        return None

    async def _work_under(self, tenure: Tenure) -> None:
        _log.info("lease_taken", epoch=tenure.epoch)
        self.state, self._tenure = PusherState.WORKING, tenure
        try:
            with trio.CancelScope(deadline=trio.current_time() + tenure.left) as work:
                await self._work(tenure, work)
            if work.cancelled_caught:
                _log.warning("lease_ended", epoch=tenure.epoch)
        except* LeaseLost:
            _log.warning("lease_lost", epoch=tenure.epoch)
        finally:
            tenure.end()
            self._tenure = self._actors = self._telling = None
            self.state = PusherState.STANDBY

    async def _work(self, tenure: Tenure, work: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            renewing = trio.CancelScope()
            nursery.start_soon(self._keep, tenure, work, renewing)
            signing = self._signing = Signing(self._service, tenure, self._sign)
            telling = self._telling = Telling(self._service, tenure, self._numbers)
            turns = Turns(self._settings.bulk_rate)
            actors = self._actors = Actors(self._service, self._tools(tenure, signing, telling, turns), nursery)
            wait = self._settings.wait
            following = (
                partial(signing.follow_unsigned, wait),
                partial(signing.follow_bulk, wait, AHEAD * self._settings.bulk_rate),
                partial(actors.follow, wait),
            )
            for part in (signing.run, telling.run, turns.run, *following):
                nursery.start_soon(part)
            for lane in Lane:
                nursery.start_soon(self._pull, lane, actors)
            await self._stopping.wait()
            await self._drain(actors, telling)
            renewing.cancel()  # one that is under way changes nothing any more after the release
            await self._release(tenure)
            nursery.cancel_scope.cancel()

    async def _keep(self, tenure: Tenure, work: trio.CancelScope, renewing: trio.CancelScope) -> None:
        with renewing:
            await lease.keep(self._service, self._holder, tenure, self._clocks.boot, work)

    def _tools(self, tenure: Tenure, signing: Signing, telling: Telling, turns: Turns) -> Tools:
        return Tools(
            service=self._service,
            tenure=tenure,
            signing=signing,
            telling=telling,
            outward=self._outward,
            turns=turns,
            alarms=Alarms(),
            budget=Budget(),
            reading=trio.CapacityLimiter(READINGS),
            wall=self._clocks.wall,
            heartbeat=self._heartbeat,
            jitter=self._jitter,
            heartbeat_every=self._settings.heartbeat_every,
        )

    async def _pull(self, lane: Lane, actors: Actors) -> None:
        """What is new in one lane, for ever, once it is known for whom."""
        await actors.wait_known()
        after = 0
        while True:
            page = await until_answered("fresh", partial(self._service.fresh, lane, after, PAGE, self._settings.wait))
            if not page:
                continue
            actors.arrived(page)
            after = page[-1].number
            if lane is Lane.BULK:  # not faster than it goes out: what is left out is read again in its time
                await trio.sleep(len(page) / self._settings.bulk_rate)

    async def _drain(self, actors: Actors, telling: Telling) -> None:
        """Bounded: what does not end in time is pushed again by the next, with the same bytes."""
        actors.drain()
        with trio.move_on_after(self._settings.drain_timeout):
            while not actors.are_idle:  # noqa: ASYNC110 - bounded, and once in a process's life
                await trio.sleep(DRAIN_LOOK)
            await telling.wait_told()

    async def _release(self, tenure: Tenure) -> None:
        with trio.move_on_after(tenure.renew_every):
            try:
                await self._service.release(tenure.epoch)
            except Fault as fault:
                _log.warning("lease_not_released", text=fault.text, detail=fault.detail)

    # What is signed.

    def _sign(self, delivery: Delivery) -> bytes:
        claims = event_claims(
            delivery.fact,
            receiver=delivery.client_id,
            role=delivery.role,
            issuer=self._settings.issuer,
            jti=delivery.jti,
            seq=delivery.seq,
            prev=delivery.prev,
            txn=delivery.txn,
        )
        return self._signer().sign_event(claims)

    def _heartbeat(self, stream: StreamRecord, client_id: ClientId, last_seq: int) -> bytes:
        claims = heartbeat_claims(
            stream_id=stream.stream_id,
            receiver=client_id,
            issuer=self._settings.issuer,
            jti=drawn_jti(secrets.token_bytes(16)),
            iat=UnixTime(int(self._clocks.wall())),
            last_seq=last_seq,
            checkpoint=self._actors.checkpoint if self._actors else None,
        )
        return self._signer().sign_event(claims)
