"""The way of every event into the guard, pushed or polled: verified, kept on disk, applied, acknowledged.

Whoever hands an event in acknowledges it when `take` has returned, and not before. By then it is applied to the memory,
unless it is held back until what lies before it has come, so that no check that comes after an acknowledgement can miss
it. What could not be applied, or what a crash left undone, `apply_due` applies: again and again, and at the next start.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import msgspec

from engine.clock import BootTime, Clock, UnixTime
from engine.consent.records import ClientId
from engine.events.sets import StreamPayload
from engine.events.verification import ErrorCode, Expected, RefusedEvent, UnknownKey, VerifiedEvent, verify_event
from engine.guard.applying import apply_event, may_go_before_others
from engine.guard.event_file import StoreDown
from engine.guard.event_keys import EventKeys
from engine.guard.event_store import Arrival, EventStore, Kept
from engine.guard.memory import Memory, MemoryFull
from engine.guard.watch import HELD_AHEAD, Standing, Watch
from engine.telemetry import logs
from engine.telemetry.floods import Floods

T = TypeVar("T")
AT_ONCE: Final = 200  # events that are applied together
SOUND_EVERY: Final = 60  # seconds between two notes on disk that nothing is missing

_log = logs.logger("events")


class Challenge(msgspec.Struct, frozen=True):
    """What is to be said back over mutual TLS, so that the service pushes to our address."""

    jti: str
    stream_id: str
    challenge: str


class _Batch:
    """Arrivals that are written in one transaction. Open until it was tried."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.kept: list[Kept] = []
        self.fault: StoreDown | None = None

    @property
    def is_open(self) -> bool:
        """Whether somebody has still to write it."""
        return self.fault is None and len(self.kept) < len(self.arrivals)


class IntakeStatistics(msgspec.Struct, frozen=True):
    """Counts since the start. refused: by `err`. unknown: of a type that this version does not know."""

    taken: int
    repeated: int
    unknown: int
    refused: dict[str, int]
    security_events: int
    last_seq: int
    ahead: int


class Intake:
    """answered_at: see `Watch.standing`. on_change: called when the next thing to do may have changed; never blocks."""

    def __init__(
        self,
        store: EventStore,
        memory: Memory,
        watch: Watch,
        clock: Clock,
        *,
        issuer: str,
        client_id: ClientId,
        answered_at: Callable[[], BootTime | None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._memory = memory
        self._watch = watch
        self._clock = clock
        self._issuer = issuer
        self._client_id = client_id
        self._answered_at = answered_at
        self._on_change = on_change
        self._disk, self._applying = anyio.Lock(), anyio.Lock()
        # A thread of our own: where names cannot be resolved, those who look for nodes take all of the others'.
        self._thread = anyio.CapacityLimiter(1)
        self._batch = _Batch()
        self._floods = Floods()
        self._challenges: dict[str, Challenge] = {}
        self._taken = self._repeated = self._unknown = self._security_events = 0
        self._refused: dict[str, int] = {}
        self._memory_full = False
        self._status_at = UnixTime(0)  # of the newest event on how our push stream stands, by the service's clock
        self.status_events = 0  # so many
        self._kept, self._applied_of = 1, 0  # rounds of keeping; what an earlier life left undone counts as one
        self._applied_to = 0  # where the chain stood when all that was due was applied
        self.heartbeat_at: UnixTime | None = None
        self._anew = store.anew  # a file that was empty from the start is marked for as any other
        self._mark_if_down_for_long()

    async def on_disk(self, call: Callable[..., T], *args: Any, **named: Any) -> T:  # noqa: ANN401 - passed on
        """A call of the store's in a thread, one at a time; it is finished even if the caller is cancelled."""
        async with self._disk:
            try:
                return await anyio.to_thread.run_sync(partial(call, *args, **named), limiter=self._thread)
            except StoreDown:
                self._mark_if_lost()
                raise

    async def take(self, compact: bytes, keys: EventKeys) -> None:
        """Verify, keep and apply an event. Raises RefusedEvent; KeysUnavailable, StoreDown, MemoryFull: not now."""
        await self._take([await self._arrival(compact, keys)])

    async def take_page(self, sets: Mapping[str, str], keys: EventKeys) -> dict[str, RefusedEvent]:
        """Verify events that came together, in whatever order, keep and apply them; returns those that were refused.

        Raises KeysUnavailable, StoreDown, MemoryFull: then none may be acknowledged, for now.
        """
        arrivals, refused = list[Arrival](), dict[str, RefusedEvent]()
        for jti, compact in sets.items():
            try:
                arrivals.append(await self._polled(jti, compact.encode(), keys))
            except RefusedEvent as refusal:
                refused[jti] = refusal
        others = await self._take(sorted(arrivals, key=lambda arrival: arrival.event.seq), refuse=False)
        return refused | others

    async def _polled(self, jti: str, compact: bytes, keys: EventKeys) -> Arrival:
        arrival = await self._arrival(compact, keys)
        if arrival.event.jti != jti:  # it could not be acknowledged under the name that poll has for it
            refusal = RefusedEvent(ErrorCode.INVALID_REQUEST, "the event has another jti")
            self._count_refusal(refusal)
            raise refusal
        return msgspec.structs.replace(arrival, polled=True)

    async def _arrival(self, compact: bytes, keys: EventKeys) -> Arrival:
        if self._memory_full:
            raise MemoryFull("what came before could not be applied")
        try:
            event = await self._verified(compact, keys)
        except RefusedEvent as refusal:
            self._count_refusal(refusal)
            raise
        return Arrival(event, compact, may_go_before_others(event))

    async def _take(self, arrivals: list[Arrival], *, refuse: bool = True) -> dict[str, RefusedEvent]:
        others = dict[str, RefusedEvent]()
        all_kept = await self._keep(arrivals)
        for arrival, kept in zip(arrivals, all_kept, strict=True):
            if kept.is_other:
                others[arrival.event.jti] = refusal = _another()
                self._count_refusal(refusal)
            else:
                self._count(arrival.event, is_new=kept.place is not None)
        try:
            await self._apply_up_to(self._kept)
        finally:
            self._on_change()
        if refuse and others:
            raise next(iter(others.values()))
        return others

    async def _keep(self, arrivals: list[Arrival]) -> list[Kept]:
        """On the disk when this returns, together with all that waited for it meanwhile: one wait for many pushes."""
        batch, first = self._batch, len(self._batch.arrivals)
        batch.arrivals.extend(arrivals)
        async with self._disk:
            if batch.is_open:
                self._batch = _Batch()  # whoever comes from now on waits for the next one
                self._kept += 1  # before the chain shows them: what closes a hole is not applied yet
                await self._write(batch)
        if batch.fault is not None:
            raise batch.fault
        return batch.kept[first : first + len(arrivals)]

    async def _write(self, batch: "_Batch") -> None:
        """Should the writer be cancelled, the next one of the batch writes it again, which changes nothing."""
        try:
            batch.kept = await anyio.to_thread.run_sync(
                self._store.keep, batch.arrivals, self._clock.now(), limiter=self._thread
            )
        except StoreDown as fault:
            batch.fault = fault
            self._mark_if_lost()

    @property
    def is_behind(self) -> bool:
        """Whether something may be kept that is to be applied."""
        return self._applied_of < self._kept or self._applied_to != self._store.chain.last_seq

    async def apply_due(self) -> None:
        """Apply what was kept and is not held back. Raises StoreDown, MemoryFull: then it is still to be applied."""
        async with self._applying:
            await self._apply_all(self._kept)

    async def _apply_up_to(self, kept: int) -> None:
        """The same, in one go with what others have kept meanwhile."""
        async with self._applying:
            if self._applied_of < kept:
                await self._apply_all(kept)
        self.settle()

    async def _apply_all(self, wanted: int) -> None:
        """At least all that was kept in so many rounds: in a flood there is always more, and nobody waits for that."""
        while True:
            kept, to, waiting = self._kept, self._store.chain.last_seq, len(self._challenges)
            due = await self.on_disk(self._store.due, AT_ONCE + waiting)  # those that wait come first, each time
            self._apply(due)
            if is_all := len(due) < AT_ONCE + waiting:
                self._applied_of, self._applied_to = max(kept, self._applied_of), to
            done = [event.jti for event in due if event.jti not in self._challenges]
            if done:
                await self.on_disk(self._store.applied, done)
            if not done and len(self._challenges) == waiting:
                break
            if is_all and self._applied_of >= wanted:
                break
        self.settle()

    def _apply(self, due: list[VerifiedEvent]) -> None:
        if not due:
            return
        self._memory_full = True
        with self._memory.together():
            for event in due:
                apply_event(event, self._memory)
        self._memory_full = False
        for event in due:
            self._remember_challenge(event)

    def challenges(self) -> list[Challenge]:
        """What is to be confirmed; each until `confirmed`."""
        return list(self._challenges.values())

    async def confirmed(self, challenge: Challenge) -> None:
        """It was said back, or is of no use any more. Raises StoreDown."""
        await self.on_disk(self._store.applied, [challenge.jti])
        self._challenges.pop(challenge.jti, None)

    def settle(self) -> Standing:
        """Tell the memory whether events are missing; what was not applied yet is. Raises MemoryFull."""
        self._mark_if_lost()
        now, chain = self._clock.boot(), self._store.chain
        new_hole = self._watch.note(
            chain.last_seq, now, has_hole=chain.has_hole, missing=chain.missing, newest=chain.newest
        )
        standing = self._watch.standing(now, self._answered_at())
        marked = self._memory.missing_since()
        if standing is Standing.WHOLE and marked is not None and self._applied_of == self._kept:
            self._memory.mark_whole()
        elif standing is Standing.MISSING:
            self._mark(marked, new_hole=new_hole)
        return standing

    def _mark(self, marked: UnixTime | None, *, new_hole: bool) -> None:
        now = self._clock.now()
        if self._watch.holds_back:
            if marked is None or marked < now + HELD_AHEAD // 2:
                self._move_mark(UnixTime(now + HELD_AHEAD))
        elif marked is None or new_hole:
            self._move_mark(now)

    def _move_mark(self, to: UnixTime) -> None:
        """What is missing happened before that: an answer from before does not know it, whenever the first hole was.

        Answers go by the service's clocks: where ours is behind, no answer that is there already may pass for newer.
        """
        with self._memory.together():
            self._memory.mark_whole()
            self._memory.mark_missing(max(to, self._memory.newest()))

    def push_stream_is(self, status: str) -> None:
        """How our push stream stands, as the service says now. Raises MemoryFull."""
        self._watch.holds_back = status != "enabled"
        self.settle()

    def standing(self) -> Standing:
        """What is known of pushed events now."""
        return self._watch.standing(self._clock.boot(), self._answered_at())

    async def note_sound(self) -> None:
        """Remember across a restart that nothing was missing a moment ago. Raises StoreDown."""
        now, noted = self._clock.now(), self._store.sound_at
        if self._memory.missing_since() is None and (noted is None or not noted <= now < noted + SOUND_EVERY):
            await self.on_disk(self._store.note, sound_at=now)

    def statistics(self) -> IntakeStatistics:
        """A frozen record of now."""
        chain = self._store.chain
        return IntakeStatistics(
            self._taken, self._repeated, self._unknown, dict(self._refused), self._security_events,
            chain.last_seq, chain.ahead,
        )  # fmt: skip

    def security_event(self, kind: str, text: str) -> None:
        """Something that somebody must look at."""
        self._security_events += 1
        left_out = self._floods.admit(kind, self._clock.boot())
        if left_out is not None:
            _log.warning("security_event", kind=kind, text=text, left_out=left_out)

    async def _verified(self, compact: bytes, keys: EventKeys) -> VerifiedEvent:
        now = self._clock.now()
        expected = Expected(self._issuer, self._client_id, self._store.states(now))
        try:
            return verify_event(compact, await keys.current(), expected, now)
        except UnknownKey as fault:
            return verify_event(compact, await keys.with_kid(fault.kid), expected, now)

    def _hear(self, event: VerifiedEvent) -> None:
        """A heartbeat counts if it was made lately: one that was held up for long says nothing about now."""
        now = self._clock.now()
        if event.last_seq is not None and event.issued_at > now - self._watch.limits.silence:
            self.heartbeat_at = now
            self._watch.told(event.last_seq, self._clock.boot())
            made = event.checkpoint
            if made is not None and self._store.is_of_later_ledger(made.incarnation, made.seq):
                self._watch.is_restored = True

    def _mark_if_down_for_long(self) -> None:
        """Whatever came while this process was not there is unknown until the service has been asked."""
        sound_at, now = self._store.sound_at, self._clock.now()
        if sound_at is None or not sound_at <= now < sound_at + self._watch.limits.silence:
            self._move_mark(now)

    def _mark_if_lost(self) -> None:
        """Where the file was damaged and began anew, what was kept in it is unknown until all has been listed."""
        if self._store.anew != self._anew:
            self._watch.forgotten()
            self._move_mark(self._clock.now())
            self._anew = self._store.anew
            self._on_change()

    def _remember_challenge(self, event: VerifiedEvent) -> None:
        if event.challenge is not None:
            self._challenges[event.jti] = Challenge(event.jti, event.subject, event.challenge)

    def _count(self, event: VerifiedEvent, *, is_new: bool) -> None:
        self._taken += 1
        self._repeated += not is_new
        if is_new:
            self._hear(event)
            self._heed(event)
            self._say(event)
        else:
            self._hear_again(event)

    def _hear_again(self, event: VerifiedEvent) -> None:
        """An earlier life may have kept it and died before it was heard. Only what takes away counts: whoever plays one
        back could otherwise say that all is well.
        """
        if event.last_seq is not None:
            self._watch.told(event.last_seq, BootTime(float("-inf")))
        if isinstance(event.payload, StreamPayload) and event.payload.status != "enabled":
            self._heed(event)

    def _heed(self, event: VerifiedEvent) -> None:
        """How our push stream stands: said, or told by a heartbeat, which comes on an enabled one alone.

        Of two words of one second that which holds back counts: which came first is not known.
        """
        if event.subject != self._store.streams.push:
            return
        if isinstance(event.payload, StreamPayload):
            is_enabled = event.payload.status == "enabled"
        elif event.last_seq is not None:
            is_enabled = True
        else:
            return
        if event.issued_at > self._status_at or (event.issued_at == self._status_at and not is_enabled):
            self._status_at = event.issued_at
            self.status_events += 1
            self._watch.holds_back = not is_enabled

    def _say(self, event: VerifiedEvent) -> None:
        if event.payload is None:
            self._unknown += 1
            _log.warning("event_of_unknown_type", type=event.type, jti=event.jti)
        if isinstance(event.payload, StreamPayload):
            say = _log.info if event.payload.status == "enabled" else _log.warning
            say("stream_updated", stream_id=event.subject, status=event.payload.status)

    def _count_refusal(self, refusal: RefusedEvent) -> None:
        self._refused[refusal.err] = self._refused.get(refusal.err, 0) + 1
        if refusal.is_security:
            self.security_event(f"event_{refusal.err}", refusal.text)
        elif (left_out := self._floods.admit(refusal.err, self._clock.boot())) is not None:
            _log.warning("event_refused", err=refusal.err, text=refusal.text, left_out=left_out)


def _another() -> RefusedEvent:
    return RefusedEvent(ErrorCode.INVALID_REQUEST, "another event has come under this jti", is_security=True)
