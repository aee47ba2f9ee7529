"""Ends consents whose time is over: one actor appends `consent.expired` (CMS-25), or `consent.consumed` (CMS-05).

A one-off that a share had claimed was consumed by it; it stays active until its day is over, so that an EDP which
failed in the middle may try again under the same claim.

Engines look at the expiry themselves, so nothing waits for this; the event makes the end part of the history and
tells the parties. What is due soon is kept in a heap, filled by looking through the consents' feed records once a
horizon and by following new events in between. Nothing is kept across a start: an expiry that was missed is found
by the first look, and one that was written twice is refused by the consent's own state.
"""

import heapq
import uuid
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import trio

from admin.consents.commands import consent_of, consume, expire
from admin.ledger.claims import Held
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Append, FeedRecord, Ledger, SubjectState, VersionConflict
from engine.backoff import Backoff
from engine.clock import Seconds, UnixTime
from engine.consent.records import AccessMode, ConsentId, ConsentKey, ConsentRecord
from engine.consent.states import IllegalTransition, State
from engine.errors import Fault
from engine.feed.entries import EntryKind
from engine.telemetry.logs import logger

HORIZON: Final = Seconds(3_600.0)  # a million consents are looked through in seconds: once an hour costs nothing
PAGE: Final = 2_000  # records or events read at once: some milliseconds of decoding before others run again
TOGETHER: Final = 64  # ends in flight at once, so that they share the ledger's commits
ACTOR: Final = "expiry"

_record: Final = msgspec.msgpack.Decoder(ConsentRecord)
_log = logger("admin.expiry")


class Statistics(msgspec.Struct, frozen=True):
    """For metrics and the status page. waiting: consents that end within the horizon."""

    waiting: int
    ended: int
    scans: int
    last_fault: str


class ClaimReader(Protocol):
    """Who has claimed a one-off."""

    async def first_of(self, consent_id: ConsentId) -> Held | None: ...


class Expiry:
    """The actor. now: whole seconds; jitter: gives numbers in [0, 1)."""

    def __init__(
        self, ledger: Ledger, claims: ClaimReader, now: Callable[[], UnixTime], jitter: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._claims = claims
        self._now = now
        self._jitter = jitter
        self._due: list[tuple[UnixTime, ConsentKey]] = []
        self._scanned_at: UnixTime | None = None
        self._seq = 0  # events up to here were looked at
        self._ended = self._scans = self._failures = 0
        self._last_fault = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """End what is due until cancelled. A ledger that is away only makes it wait."""
        task_status.started()
        backoff = Backoff()
        while True:
            try:
                await self.step()
                self._failures = 0
                await self._ledger.wait_beyond(self._seq)  # at the latest after a second, for the clock
            except Fault as fault:
                self._failures += 1
                self._last_fault = fault.text
                _log.warning("waiting", text=fault.text, detail=fault.detail)
                await trio.sleep(max(0.1, backoff.delay(self._failures, self._jitter())))

    async def step(self) -> None:
        """Look at what is new, then end everything that is due now."""
        if self._scanned_at is None or self._now() >= self._scanned_at + HORIZON:
            await self._scan()
        await self._follow()
        while self._due and self._due[0][0] <= self._now():
            await self._end_some()

    def statistics(self) -> Statistics:
        """A snapshot."""
        return Statistics(len(self._due), self._ended, self._scans, self._last_fault)

    async def _scan(self) -> None:
        """Look through all consents. The head is read first: what is written meanwhile is followed afterwards."""
        scanned_at, self._seq = self._now(), (await self._ledger.head()).position.seq
        self._due = []
        after = (int(EntryKind.CONSENT), b"")
        while page := await self._ledger.records(after, PAGE):
            consents = [record for _, record in page if record.kind == EntryKind.CONSENT]
            for record in consents:
                self._note(record, scanned_at)
            if len(consents) < len(page):
                break
            after = (int(EntryKind.CONSENT), page[-1][1].key)
        self._scanned_at = scanned_at
        self._scans += 1

    async def _follow(self) -> None:
        scanned_at = self._scanned_at or self._now()
        while events := await self._ledger.events(self._seq, PAGE):
            for event in events:
                if event.feed is not None and event.feed.kind == EntryKind.CONSENT:
                    self._note(event.feed, scanned_at)
            self._seq = events[-1].position.seq

    def _note(self, feed: FeedRecord, scanned_at: UnixTime) -> None:
        """Keep what ends before the next look could find it, with a horizon to spare."""
        record = _record.decode(feed.record)
        if record.state is State.ACTIVE and record.expires_at <= scanned_at + 2 * HORIZON:
            heapq.heappush(self._due, (record.expires_at, ConsentKey(feed.key)))

    async def _end_some(self) -> None:
        """End up to TOGETHER of those that are due; what could not be written now stays due."""
        now = self._now()
        taken: list[tuple[UnixTime, ConsentKey]] = []
        while self._due and self._due[0][0] <= now and len(taken) < TOGETHER:
            taken.append(heapq.heappop(self._due))
        faults: list[Fault] = []
        async with trio.open_nursery() as nursery:
            for entry in taken:
                nursery.start_soon(self._end, entry, now, faults)
        if faults:
            raise faults[0]

    async def _end(self, entry: tuple[UnixTime, ConsentKey], now: UnixTime, faults: list[Fault]) -> None:
        consent_id = ConsentId(str(uuid.UUID(bytes=entry[1])))
        try:
            state = await self._ledger.subject(f"consent:{consent_id}")
            if state is not None:
                await self._ledger.append([await self._ending(consent_id, state, now)])
                self._ended += 1
        except (IllegalTransition, VersionConflict):
            return  # ended or renewed meanwhile: the event that says so is followed
        except Fault as fault:
            heapq.heappush(self._due, entry)
            faults.append(fault)

    async def _ending(self, consent_id: ConsentId, state: SubjectState, now: UnixTime) -> Append:
        act = Act(Initiator.SYSTEM, ACTOR, Route.SYSTEM, now)
        ending = expire(state, act=act, now=now)  # refuses what is not over yet
        if consent_of(state).consent.access_mode is not AccessMode.ONE_OFF:
            return ending
        held = await self._claims.first_of(consent_id)
        if held is None:
            return ending
        return consume(state, edp=held.edp, share_id=held.share_id, act=act, now=UnixTime(int(held.claimed_at)))
