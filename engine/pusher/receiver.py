"""One receiver's actor: begins what may be begun, takes in what came of it, keeps its heart beating.

Nothing that must not be lost goes through its mailbox: whatever happens is laid down beside it, and the one message
says "look". A receiver's slowness is its own: it has its places, its connections, its circuit, its memory. When the
actor fails, its supervisor begins anew, and everything that is owed is read again from the outbox.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio

from engine.actors.actor import Actor
from engine.actors.mailbox import MailboxFull
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.events.facts import VerificationFact
from engine.pusher.attempt import GONE, Ended, attempt, is_past
from engine.pusher.calls import until_answered
from engine.pusher.circuit import Circuit
from engine.pusher.destination import Destination
from engine.pusher.heartbeat import Heartbeat
from engine.pusher.outbox import LANE_SIZE, Budget, Held, LaneStatus, Outbox
from engine.pusher.schedule import Reply, Trouble, is_of_receiver
from engine.pusher.service import Delivery, Fate, Lane, Outcome, Receiver
from engine.pusher.timer import Timer
from engine.pusher.tools import Tools
from engine.telemetry import logs, pusher_metrics

LAID_DOWN: Final = 1_024  # deliveries beside the actor before it has looked; beyond that they are read again

_log = logs.logger("pusher")


class Look:
    """The one message."""


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
        self._destination = Destination(receiver)
        self._tools = tools
        self._owed = owed
        self._draining = False
        self._came: list[Delivery] = []
        self._left_out: set[Lane] = set()
        self._ended: list[Ended] = []
        self._read: list[_Read] = []
        self._beaten: list[Reply | Trouble] = []
        self._changed = self._freed = False
        self._turn = self._asked = False
        self._timer = Timer(tools.wall, self._look)
        self._heartbeat = Heartbeat(self._destination, tools, self._beat)
        self._last_error = ""
        self._nursery: trio.Nursery | None = None
        self._actor: Actor[State, Look] = Actor(self._fresh, self._handle, size=1)

    # What others tell it.

    def arrived(self, deliveries: Sequence[Delivery]) -> None:
        """New in the outbox, in order."""
        room = LAID_DOWN - len(self._came)
        self._came += deliveries[:room]
        self._left_out |= {one.lane for one in deliveries[room:]}
        self._heartbeat.saw(deliveries)
        self._look()

    def change(self, receiver: Receiver) -> None:
        """The directory or the receiver's streams have changed."""
        stands_from = self._destination.receiver.stream_seq
        if self._destination.change(receiver):
            self._changed = True
        elif receiver.stream_seq != stands_from:  # paused and enabled since: nobody has brought what was held
            self._freed = True
        self._look()

    def your_turn(self) -> None:
        """See `turns.Asking`."""
        self._turn, self._asked = True, False
        self._look()

    def drain(self) -> None:
        """Begin nothing more."""
        self._draining = True
        self._heartbeat.stop()

    @property
    def client_id(self) -> ClientId:
        """Whose."""
        return self._destination.receiver.client_id

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and everything that ended has been taken in."""
        return not self._actor.state.outbox.under_way and not self._ended

    def status(self) -> ReceiverStatus:
        """As of now."""
        state = self._actor.state
        lanes = {lane.name.lower(): status for lane, status in state.outbox.status().items()}
        is_open = state.circuit.is_open
        return ReceiverStatus(self.client_id, self._destination.word, is_open, lanes, self._last_error)

    def _look(self) -> None:
        with suppress(MailboxFull):  # it has been told, and has not looked yet
            self._actor.mailbox.post_nowait(Look())

    # Its life.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever; supervise it. Raises LeaseLost."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._timer.run)
                nursery.start_soon(self._heartbeat.run)
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

    async def _handle(self, state: State, _: Look) -> State:
        """Take in what was laid down, begin what may be."""
        self._take_in(state)
        if not self._draining:
            self._begin(state)
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
        now = self._tools.wall()
        found: list[Delivery] = []
        for one in deliveries:
            if not self._destination.takes(one):
                continue
            if is_past(one, now):
                self._expire(one, one.attempts)
            else:
                found.append(one)
        return found

    def _expire(self, delivery: Delivery, attempts: int) -> None:
        pusher_metrics.EXPIRED.inc()
        at = self._tools.wall()
        self._tools.telling.tell(Outcome(delivery.number, Fate.EXPIRED, attempts, at, error="expired"), at_once=False)

    def _settle(self, state: State, ended: Ended) -> None:
        held, judged = ended.held, ended.judged
        number = held.delivery.number
        if judged is None and is_past(held.delivery, self._tools.wall()):
            self._expire(held.delivery, held.attempts)
        elif judged is None and self._destination.takes(held.delivery):
            state.outbox.give_back(number)
            return
        if judged is None or judged.error == GONE:  # if it comes back, a change of the stream brings it
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
            self._tools.outward.forget(self.client_id)
        if judged.fate is Fate.DONE and isinstance(held.delivery.fact, VerificationFact):
            self._recovered(state)

    def _note(self, state: State, result: Reply | Trouble | None) -> None:
        """What an attempt says of the receiver as such."""
        if result is None:
            return
        if is_of_receiver(result):
            if state.circuit.failed(self._tools.wall()):
                self._tools.alarms.circuit(self.client_id, opened=True)
        elif state.circuit.answered():
            self._tools.alarms.circuit(self.client_id, opened=False)

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
        if self._destination.stream is not None and self._nursery is not None:
            while (asked := outbox.next_reading()) is not None:
                self._nursery.start_soon(self._read_again, *asked)
        times = [due_at, circuit.probe_at]
        # A moment later: a time that rounding never lets come would be slept for again and again.
        self._timer.set(min((time for time in times if time is not None and time > now), default=float("inf")) + 0.001)

    async def _attempt(self, held: Held) -> None:
        ended = await attempt(held, self._destination, self._tools)
        self._ended.append(ended)  # to what is laid down now: what was when it began has been taken in
        self._look()

    async def _read_again(self, lane: Lane, after: int) -> None:
        """One reading of what was left in the outbox."""
        tools = self._tools
        ask = partial(tools.service.backlog, self.client_id, lane, after, LANE_SIZE)
        async with tools.reading:
            page = await until_answered("backlog", ask)
        self._read.append(_Read(lane, page, len(page) < LANE_SIZE))
        self._look()

    async def _unpark(self) -> None:
        tools = self._tools
        freed = 0
        free = partial(tools.service.unpark, tools.tenure.epoch, self.client_id, UnixTime(int(tools.wall())))
        await tools.telling.wait_told()  # what was parked just now is to be among them
        while new := await until_answered("unpark", free):
            freed += new
        if freed:
            pusher_metrics.UNPARKED.inc(freed)
            _log.info("unparked", client=self.client_id, deliveries=freed)
            self._freed = True
            self._look()

    def _beat(self, result: Reply | Trouble) -> None:
        """A heartbeat has ended."""
        self._beaten.append(result)
        self._look()
