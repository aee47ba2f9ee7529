"""Tails the ledger into Redis: every event one sealed entry, in order, into the stream and its record.

The truth is the ledger, so nothing here is kept: at least every TICK the copy in Redis is looked at, judged
against the ledger's head and mended. A copy of an earlier moment gets its missing tail; one that is absent, forged
or of another incarnation begins anew: the stream at once, so that nodes go on, the records behind it. Losing Redis
or the ledger only makes it wait. Between two looks new events go out as soon as the ledger rings.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from admin.ledger.feed_copy import FeedCopy, Seen, Verdict, judge
from admin.ledger.records_filler import FillProgress, RecordsFiller
from admin.ledger.sealing import Sealed, Sealer
from admin.ledger.signal import Signal
from admin.ledger.store import Ledger, StoredEvent
from engine.backoff import Backoff
from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind, Position
from engine.feed.redis_faults import RedisFault
from engine.telemetry.logs import logger

TICK: Final = Seconds(0.1)  # a flushed or rolled-back copy is noticed within this
BATCH: Final = 500  # events a script: about 2 ms in which Redis answers nobody else
RESTART_TAIL: Final = 1_000  # entries a new stream begins with: whoever is further behind asks over HTTPS
RETRY: Final = Backoff(first=Seconds(0.05), limit=Seconds(1.0))

_log = logger("admin.projector")


class ProjectorState(enum.StrEnum):
    """What the projector is doing."""

    STARTING = "starting"
    FOLLOWING = "following"  # Redis is even with the ledger, or about to be
    REDIS_AWAY = "redis_away"
    LEDGER_AWAY = "ledger_away"
    LEDGER_BEHIND = "ledger_behind"  # Redis holds genuine entries that the ledger has lost


class ProjectorStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page."""

    state: ProjectorState
    position: Position | None  # up to where Redis was brought; None = not known now
    head: Position | None  # the ledger's, when last read
    appended: int  # entries written since the start
    restarts: int  # how often the stream began anew
    filling: FillProgress | None  # records being written anew; None = none now
    fills: int  # how often all records were written anew
    last_fault: str


class LedgerBehind(Fault):
    """The ledger lost events that it had already told: it was restored without a new incarnation."""

    kind = Kind.BROKEN


class Projector:
    """One tailer. Several may work at once, in one process or in many.

    bound: about how many entries the stream keeps. jitter: gives numbers in [0, 1).
    """

    def __init__(
        self,
        ledger: Ledger,
        copy: FeedCopy,
        sealer: Sealer,
        filler: RecordsFiller,
        *,
        bound: int,
        jitter: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._copy = copy
        self._sealer = sealer
        self._filler = filler
        self._bound = bound
        self._jitter = jitter
        self._at: Position | None = None
        self._head: Position | None = None
        self._appended = self._restarts = self._failures = 0
        self._last_fault = ""
        self.state = ProjectorState.STARTING
        self.moved = Signal()  # rings when entries were appended
        self.participants_changed = Signal()  # rings when one of them was a participant

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the ledger until cancelled. Ready after the first look, also when that failed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._filler.run)
            await self._step()
            task_status.started()
            while True:
                await self._step()

    async def wait_reached(self, position: Position, *, patience: Seconds) -> bool:
        """Wait until Redis holds everything up to the position; False when patience (seconds) ran out."""
        with trio.move_on_after(patience):
            while not self._holds(position):
                await self.moved.wait()
        return self._holds(position)

    def statistics(self) -> ProjectorStatistics:
        """A snapshot."""
        return ProjectorStatistics(
            state=self.state,
            position=self._at,
            head=self._head,
            appended=self._appended,
            restarts=self._restarts,
            filling=self._filler.under_way,
            fills=self._filler.fills,
            last_fault=self._last_fault,
        )

    async def _step(self) -> None:
        """One look, what it asks for, and then a TICK of following."""
        try:
            await self._mend()
            self._failures = 0
            await self._follow(trio.current_time() + TICK)
        except Fault as fault:
            self._suffer(fault)
            await trio.sleep(max(TICK / 4, RETRY.delay(self._failures, self._jitter())))

    def _suffer(self, fault: Fault) -> None:
        self._at = None
        self._failures += 1
        state = _state_of(fault)
        if state is not self.state or fault.text != self._last_fault:
            _log.warning("feed_stalled", state=state.value, text=fault.text, detail=fault.detail)
        self.state, self._last_fault = state, fault.text

    async def _mend(self) -> None:
        """Look, judge, act, until the copy is even. Raises LedgerBehind, RedisFault, and the ledger's faults."""
        while not await self._look_and_act():
            pass
        if self.state is not ProjectorState.FOLLOWING:
            _log.info("feed_following", position=self._at)
        self.state = ProjectorState.FOLLOWING

    async def _look_and_act(self) -> bool:
        seen = await self._copy.look()
        head = self._head = (await self._ledger.head()).position
        verdict = judge(seen, head, self._sealer.keys)
        if verdict is Verdict.AHEAD:
            raise LedgerBehind("the ledger has lost events that it had told", detail=seen.head.decode(errors="replace"))
        if verdict is Verdict.WORTHLESS:
            await self._restart(seen, head)
            return False
        self._reach(seen.position())
        if seen.whole != head.incarnation.encode():
            self._filler.ask(head.incarnation)
        if verdict is Verdict.EVEN:
            return True
        if not await self._append_next():  # numbers were left out: a new incarnation began above them
            await self._restart(seen, head)
        return False

    async def _restart(self, seen: Seen, head: Position) -> None:
        _log.warning("feed_restarted", found=seen.head.decode(errors="replace"), head=head.seq)
        events = await self._ledger.events(max(0, head.seq - RESTART_TAIL), RESTART_TAIL)
        tail = [self._sealer.event(event, head.incarnation) for event in events]
        at = Position(head.incarnation, tail[-1].entry.seq if tail else 0)
        if await self._copy.restart(seen, at, tail):
            self._restarts += 1

    async def _follow(self, deadline: float) -> None:
        """Append what the ledger rings for, until the deadline or until the copy is not where it was."""
        while self._at is not None and trio.current_time() < deadline:
            with trio.move_on_at(deadline) as scope:
                await self._ledger.wait_beyond(self._at.seq)
            if scope.cancelled_caught:
                return
            if not await self._append_next():
                await trio.sleep_until(deadline)  # a false hint is no reason to ask without pause

    async def _append_next(self) -> bool:
        """Append the next events, at most BATCH; False = there are none, or the copy is not where we thought."""
        after = self._at
        if after is None:
            return False
        entries = self._entries(await self._ledger.events(after.seq, BATCH), after)
        if not entries:
            return False
        if not await self._copy.append(after, entries, bound=self._bound):
            self._at = None
            return True
        self._appended += len(entries)
        self._reach(Position(after.incarnation, entries[-1].entry.seq))
        if any(item.entry.kind is EntryKind.PARTICIPANT for item in entries):
            self.participants_changed.ring()
        return True

    def _entries(self, events: Sequence[StoredEvent], after: Position) -> list[Sealed]:
        """Those that follow on `after` without a gap under its incarnation. Events come in order of their numbers."""
        count = len(events)
        while count and events[count - 1].position != Position(after.incarnation, after.seq + count):
            count -= 1
        return [self._sealer.event(event, after.incarnation) for event in events[:count]]

    def _reach(self, position: Position | None) -> None:
        if position != self._at:
            self._at = position
            self.moved.ring()

    def _holds(self, position: Position) -> bool:
        at = self._at
        return at is not None and at.incarnation == position.incarnation and at.seq >= position.seq


def _state_of(fault: Fault) -> ProjectorState:
    if isinstance(fault, LedgerBehind):
        return ProjectorState.LEDGER_BEHIND
    return ProjectorState.REDIS_AWAY if isinstance(fault, RedisFault) else ProjectorState.LEDGER_AWAY
