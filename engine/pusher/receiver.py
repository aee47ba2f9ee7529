"""One receiver's actor: begins what may be begun, takes in what came of it, keeps its heart beating.

Nothing that must not be lost goes through its mailbox: whatever happens is laid down beside it, and the one message
says "look". A receiver's slowness is its own: it has its places, its connections, its circuit, its memory. When the
actor fails, its supervisor begins anew, and everything that is owed is read again from the outbox.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import msgspec
import trio

from engine.actors.actor import Actor
from engine.actors.mailbox import MailboxFull
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId
from engine.events.facts import StreamFact, VerificationFact
from engine.pusher.alarms import Alarms
from engine.pusher.calls import until_answered
from engine.pusher.circuit import Circuit
from engine.pusher.connections import Unreached
from engine.pusher.lease import Tenure
from engine.pusher.outbox import LANE_SIZE, Budget, Held, LaneStatus, Outbox
from engine.pusher.schedule import PUSHED_FOR, Alarm, Attempt, Judgement, Reply, Trouble, is_of_receiver, judge
from engine.pusher.service import Delivery, Fate, Lane, Outcome, PushService, Receiver
from engine.pusher.signing import CannotSign, Gone, Signing
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.pusher.targets import BadTarget, Target, target_of
from engine.pusher.telling import Telling
from engine.pusher.turns import Turns
from engine.telemetry import logs, pusher_metrics

HEARTBEAT: Final = Seconds(60.0)
LAID_DOWN: Final = 1_024  # deliveries beside the actor before it has looked; beyond that they are read again

_log = logs.logger("pusher")


class Outward(Protocol):
    """The way to receivers; `engine.pusher.egress.Egress`."""

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = ...
    ) -> Reply:
        """One attempt. Raises Unreached. begun: called when it begins, after any wait of our own."""

    def forget(self, client_id: ClientId) -> None:
        """The next connection proves everything anew."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What all receivers of a tenure share. wall: seconds since 1970. heartbeat: signs one for a stream and a seq."""

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


class Look:
    """The one message."""


class _Ended(msgspec.Struct, frozen=True):
    """An attempt has. judged None: it was not made, and the delivery stands where it stood."""

    held: Held
    judged: Judgement | None
    result: Reply | Trouble | None = None
    at: float = 0.0


class _Read(msgspec.Struct, frozen=True):
    lane: Lane
    page: Sequence[Delivery]
    whole: bool


class State:
    """What only the actor's task touches."""

    def __init__(self, budget: Budget) -> None:
        self.outbox = Outbox(budget)
        self.circuit = Circuit()
        self.unwell = False  # a heartbeat has failed, and none was taken since
        self.is_new = True  # nobody knows what was parked before, and why


class ReceiverStatus(msgspec.Struct, frozen=True):
    """For the status page."""

    client_id: ClientId
    stream: str
    circuit_open: bool
    lanes: dict[str, LaneStatus]
    last_error: str


class ReceiverActor:
    """owed: the outbox may hold deliveries for it that nobody will bring: read it from the beginning."""

    def __init__(self, receiver: Receiver, tools: Tools, *, owed: bool) -> None:
        self.receiver = receiver
        self._tools = tools
        self._owed = owed
        self._draining = False
        self._stream = push_stream(receiver)
        self._target = self._target_of()
        self._came: list[Delivery] = []
        self._left_out: set[Lane] = set()
        self._ended: list[_Ended] = []
        self._read: list[_Read] = []
        self._beaten: list[Reply | Trouble] = []
        self._changed = self._freed = False
        self._turn = self._asked = False
        self._newest_seq = 0
        self._wake = trio.Event()
        self._wake_at = float("inf")
        self._last_error = ""
        self._nursery: trio.Nursery | None = None
        self._actor: Actor[State, Look] = Actor(self._fresh, self._handle, size=1)

    # What others tell it.

    def arrived(self, deliveries: Sequence[Delivery]) -> None:
        """New in the outbox, in order."""
        room = LAID_DOWN - len(self._came)
        self._came += deliveries[:room]
        self._left_out |= {one.lane for one in deliveries[room:]}
        self._newest_seq = max([self._newest_seq, *(one.seq for one in deliveries)])  # lanes overtake each other
        self._look()

    def change(self, receiver: Receiver) -> None:
        """The directory or the receiver's streams have changed."""
        stream = push_stream(receiver)
        if stream != self._stream:
            self._changed = True
        self.receiver, self._stream = receiver, stream
        self._target = self._target_of()
        self._look()

    def your_turn(self) -> None:
        """See `turns.Asking`."""
        self._turn, self._asked = True, False
        self._look()

    def drain(self) -> None:
        """Begin nothing more."""
        self._draining = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and everything that ended has been taken in."""
        return not self._actor.state.outbox.under_way and not self._ended

    def status(self) -> ReceiverStatus:
        """As of now."""
        state = self._actor.state
        lanes = {lane.name.lower(): status for lane, status in state.outbox.status().items()}
        stream = "none" if self._stream is None else _word_of(self._stream)
        return ReceiverStatus(self.receiver.client_id, stream, state.circuit.is_open, lanes, self._last_error)

    def _look(self) -> None:
        with suppress(MailboxFull):  # it has been told, and has not looked yet
            self._actor.mailbox.post_nowait(Look())

    # Its life.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever; supervise it. Raises LeaseLost."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep_waking)
                nursery.start_soon(self._keep_beating)
                await nursery.start(self._actor.run)
                self._look()
                task_status.started()
        finally:
            self._nursery = None
            self._actor.state.outbox.close()

    def _fresh(self) -> State:
        self._ended.clear()
        self._read.clear()
        self._beaten.clear()
        self._turn = self._asked = False
        state = State(self._tools.budget)
        if self._owed:
            state.outbox.owe_everything()
        if self._nursery is not None:
            self._owed = True  # after a failure
        return state

    async def _keep_waking(self) -> None:
        while True:
            left = self._wake_at - self._tools.wall()
            with trio.move_on_after(max(0.0, left)) as sleeping:
                await self._wake.wait()
            self._wake = trio.Event()
            if sleeping.cancelled_caught:
                self._wake_at = float("inf")
                self._look()

    async def _handle(self, state: State, _: Look) -> State:
        """Take in what was laid down, begin what may be."""
        self._take_in(state)
        if not self._draining:
            self._begin(state)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return state

    # Taking in.

    def _take_in(self, state: State) -> None:
        if self._changed:
            state.outbox.clear()
        if self._changed or self._freed:
            state.outbox.owe_everything()
        self._changed = self._freed = False
        ended, self._ended = self._ended, []
        for one in ended:
            self._settle(state, one)
        beaten, self._beaten = self._beaten, []
        for result in beaten:
            self._note_beat(state, result)
        read, self._read = self._read, []
        for reading in read:
            page = self._to_send(reading.page)
            up_to = reading.page[-1].number if reading.page else 0
            state.outbox.read_again(reading.lane, page, whole=reading.whole, up_to=up_to)
        came, self._came = self._came, []
        state.outbox.arrived(self._to_send(came))
        for lane in self._left_out:
            state.outbox.owe(lane)
        self._left_out.clear()

    def _to_send(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that may go. What is too old is told so, and takes nobody's turn."""
        found = []
        for one in deliveries:
            if not self._may_send(one):
                continue
            if self._is_past(one):
                self._expire(one, one.attempts)
            else:
                found.append(one)
        return found

    def _is_past(self, delivery: Delivery) -> bool:
        return self._tools.wall() - delivery.committed_at >= PUSHED_FOR

    def _expire(self, delivery: Delivery, attempts: int) -> None:
        pusher_metrics.EXPIRED.inc()
        at = self._tools.wall()
        self._tools.telling.tell(Outcome(delivery.number, Fate.EXPIRED, attempts, at, error="expired"), at_once=False)

    def _may_send(self, delivery: Delivery) -> bool:
        """By its stream as we know it. What may not go is read again when the stream has changed."""
        stream, fact = self._stream, delivery.fact
        if stream is None or self._target is None:
            return False
        if stream.challenge:
            return isinstance(fact, VerificationFact) and fact.challenge == stream.challenge
        if isinstance(fact, VerificationFact | StreamFact):
            stale = isinstance(fact, VerificationFact) and fact.challenge is not None
            return fact.stream_id == stream.stream_id and not stale
        return stream.status is StreamStatus.ENABLED

    def _settle(self, state: State, ended: _Ended) -> None:
        held, judged = ended.held, ended.judged
        number = held.delivery.number
        if judged is None and self._is_past(held.delivery):
            self._expire(held.delivery, held.attempts)
        elif judged is None and self._may_send(held.delivery):
            state.outbox.give_back(number)
            return
        if judged is None or judged.error == "gone":  # if it comes back, a change of the stream brings it
            state.outbox.settle(number, Fate.DONE, attempts=held.attempts)
            return
        attempts, next_at = held.attempts + 1, 0.0
        if judged.fate is Fate.AGAIN:
            next_at = ended.at + judged.wait
        self._note(state, ended.result)
        state.outbox.settle(number, judged.fate, attempts=attempts, next_at=next_at, refusals=judged.refusals)
        outcome = Outcome(number, judged.fate, attempts, ended.at, next_at, judged.error)
        self._tools.telling.tell(outcome, at_once=held.delivery.lane is not Lane.BULK)
        self._last_error = judged.error
        if judged.error == "access_denied":
            self._tools.outward.forget(self.receiver.client_id)
        if judged.fate is Fate.DONE and isinstance(held.delivery.fact, VerificationFact):
            self._recovered(state)

    def _note(self, state: State, result: Reply | Trouble | None) -> None:
        """What an attempt says of the receiver as such."""
        if result is None:
            return
        if is_of_receiver(result):
            if state.circuit.failed(self._tools.wall()):
                self._tools.alarms.circuit(self.receiver.client_id, opened=True)
        elif state.circuit.answered():
            self._tools.alarms.circuit(self.receiver.client_id, opened=False)

    def _note_beat(self, state: State, result: Reply | Trouble) -> None:
        self._note(state, result)
        if isinstance(result, Trouble) or result.status not in (200, 202, 204):
            state.unwell = True
        elif state.unwell:
            self._recovered(state)
        elif state.is_new:
            self._free(state)

    def _recovered(self, state: State) -> None:
        """A verification was taken: what was parked may be pushed again, and what waits need not."""
        state.unwell = False
        state.outbox.hasten()
        self._free(state)

    def _free(self, state: State) -> None:
        state.is_new = False
        if self._nursery is not None:
            self._nursery.start_soon(self._unpark)

    # Beginning.

    def _begin(self, state: State) -> None:
        outbox, circuit, now = state.outbox, state.circuit, self._tools.wall()
        due_at = outbox.due_at(now)
        while self._nursery is not None and self._tools.tenure.holds():
            held = outbox.take(now, new=circuit.may_begin(now), bulk=self._turn)
            if held is None:
                break
            if not held.attempts:
                circuit.begun(now)
            if held.delivery.lane is Lane.BULK:
                self._turn = False
            self._nursery.start_soon(self._attempt, held)
        if not self._turn and not self._asked and outbox.is_ready(Lane.BULK):
            self._asked = True
            self._tools.turns.ask(self)
        if self._stream is not None and self._nursery is not None:
            while (asked := outbox.next_reading()) is not None:
                self._nursery.start_soon(self._read_again, *asked)
        times = [due_at, circuit.probe_at]
        # A moment later: a time that rounding never lets come would be slept for again and again.
        self._wake_by(min((time for time in times if time is not None and time > now), default=float("inf")) + 0.001)

    def _wake_by(self, at: float) -> None:
        if at != self._wake_at:
            self._wake_at = at
            self._wake.set()

    async def _attempt(self, held: Held) -> None:
        delivery, tools = held.delivery, self._tools
        judged: Judgement | None = None
        result: Reply | Trouble | None = None
        detail = ""
        if self._is_past(delivery):
            self._end(_Ended(held, None))
            return
        try:
            content = await tools.signing.signed(delivery)
            target = self._target
            if target is not None and tools.tenure.holds() and self._may_send(delivery):
                begun = partial(self._note_begun, held)
                result = await tools.outward.push(delivery.client_id, target, content, begun=begun)
        except Unreached as fault:
            result, detail = fault.trouble, fault.detail
        except CannotSign:
            judged = Judgement(Fate.PARKED, "cannot_sign", alarm=Alarm.PARKED)
        except Gone:
            judged = Judgement(Fate.DONE, "gone")
        now = tools.wall()
        if result is not None:
            judged = judge(
                Attempt(delivery.lane, held.attempts + 1, result, now, tools.jitter(), refusals=held.refusals)
            )
        if judged is not None and judged.error != "gone":
            tools.alarms.attempted(delivery, result, judged, now=now, detail=detail)
        self._end(_Ended(held, judged, result, now))

    def _end(self, ended: _Ended) -> None:
        self._ended.append(ended)
        self._look()

    def _note_begun(self, held: Held) -> None:
        """An attempt has, after its wait for a connection: receivers and people wait from the commit to here."""
        if not held.attempts:
            waited = max(0.0, self._tools.wall() - held.delivery.committed_at)
            pusher_metrics.FIRST_ATTEMPT.labels(held.delivery.lane.name.lower()).observe(waited)

    async def _read_again(self, lane: Lane, after: int) -> None:
        """One reading of what was left in the outbox."""
        tools = self._tools
        ask = partial(tools.service.backlog, self.receiver.client_id, lane, after, LANE_SIZE)
        async with tools.reading:
            page = await until_answered("backlog", ask)
        self._read.append(_Read(lane, page, len(page) < LANE_SIZE))
        self._look()

    async def _unpark(self) -> None:
        tools = self._tools
        freed = 0
        free = partial(tools.service.unpark, tools.tenure.epoch, self.receiver.client_id, UnixTime(int(tools.wall())))
        await tools.telling.wait_told()  # what was parked just now is to be among them
        while new := await until_answered("unpark", free):
            freed += new
        if freed:
            pusher_metrics.UNPARKED.inc(freed)
            _log.info("unparked", client=self.receiver.client_id, deliveries=freed)
            self._freed = True
            self._look()

    # Its heartbeat.

    async def _keep_beating(self) -> None:
        """A verification event each minute, made in memory: it says how far the receiver should be by now."""
        await trio.sleep(self._tools.jitter() * self._tools.heartbeat_every)
        while True:
            if not self._draining and self._tools.tenure.holds():
                await self._beat()
            await trio.sleep(self._tools.heartbeat_every)

    async def _beat(self) -> None:
        stream, target = self._stream, self._target
        if stream is None or target is None or not stream.is_usable or stream.status is not StreamStatus.ENABLED:
            return
        last_seq = max(self.receiver.last_seq, self._newest_seq)
        client_id = self.receiver.client_id
        result: Reply | Trouble
        try:
            content = self._tools.heartbeat(stream, client_id, last_seq)
            result = await self._tools.outward.push(client_id, target, content)
            word = "taken" if result.status in (200, 202, 204) else f"http_{result.status // 100}xx"
        except Unreached as fault:
            result, word = fault.trouble, fault.trouble.value
            self._tools.alarms.unreached(client_id, fault.trouble, fault.detail)
        pusher_metrics.HEARTBEATS.labels(word).inc()
        self._beaten.append(result)
        self._look()

    def _target_of(self) -> Target | None:
        if self._stream is None:
            return None
        try:
            return target_of(self._stream.endpoint_url, frozenset(self.receiver.certificates))
        except BadTarget as fault:
            _log.error("bad_push_address", client=self.receiver.client_id, text=fault.text)
            return None


def push_stream(receiver: Receiver) -> StreamRecord | None:
    """The receiver's push stream, if there is one."""
    for stream in receiver.streams:
        if stream.delivery is DeliveryMethod.PUSH and not stream.deleted:
            return stream
    return None


def _word_of(stream: StreamRecord) -> str:
    return "unconfirmed" if stream.challenge else str(stream.status)
