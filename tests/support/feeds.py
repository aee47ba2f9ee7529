"""A made-up ledger with its feed service and projector, for tests of what hangs on the other end of the feed.

The service speaks by method call, the projector writes to a real Redis; both can be made to misbehave.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import trio

from engine.clock import Seconds, UnixTime
from engine.consent.records import LIVE_KEY, ConsentRecord, DoubtRecord, LiveRecord, RestoreRecord
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, EntryKind, Position, seal
from engine.feed.questions import Answer, Question, seal_answer, unseal_question
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import get, keys_matching, xadd
from engine.feed.redis_faults import RedisFault, RedisRefused
from engine.feed.redis_names import (
    ANSWER_FIELD,
    QUESTIONS_PATTERN,
    STREAM,
    STREAM_FIELD,
    answers_key,
    stream_id,
)
from tests.support.replicas import INCARNATION, MAC_KEY, consent_entry, consent_key, snapshot_of


class Away(Fault):
    """The made-up service was told to fail."""

    kind = Kind.UNAVAILABLE


class Foreign(Fault):
    """Another incarnation was asked about."""

    kind = Kind.CONFLICT


class MadeLedger:
    """Entries in order, and the feed service over them."""

    def __init__(self, incarnation: str = INCARNATION) -> None:
        self.incarnation = incarnation
        self.entries_: list[Entry] = []
        self.away = False
        self.snapshots_allowed = trio.Event()  # a new Event holds snapshots back until it is set
        self.snapshots_allowed.set()
        self.polls = True  # False: a call that would wait brings nothing
        self.verification_keys = b'{"issuer":"made-up","jwks":{"keys":[]}}'
        self.calls: list[str] = []
        self.questions: list[Question] = []  # what was checked over HTTPS
        self.fetched: list[int] = []  # after which positions entries were fetched
        self.reports: dict[str, bytes] = {}
        self.reports_taken = self.reports_understood = True
        self._grown = trio.Event()

    @property
    def position(self) -> Position:
        return Position(self.incarnation, self.entries_[-1].seq if self.entries_ else 0)

    def grant(self, number: int, record: ConsentRecord | None = None) -> Entry:
        return self.append(consent_entry(self.position.seq + 1, number, record, incarnation=self.incarnation))

    def announce_keys(self, raw: bytes) -> None:
        self.verification_keys = raw
        self.append(Entry(self.incarnation, self.position.seq + 1, EntryKind.KEYS))

    def append(self, entry: Entry) -> Entry:
        self.entries_.append(entry)
        self._grown.set()
        self._grown = trio.Event()
        return entry

    def restore(self, incarnation: str, *, losing: int, above: int = 100, gap_from: UnixTime | None = None) -> None:
        """Lose the newest entries and go on under another incarnation, above what was ever reported.

        gap_from: what engines are told of it; None: nothing, the ledger is live at once.
        """
        kept, ended = self.entries_[: len(self.entries_) - losing], self.position
        self.incarnation = incarnation
        self.entries_ = [msgspec.structs.replace(entry, incarnation=incarnation) for entry in kept]
        restored = RestoreRecord(self.position.seq, ended.seq, gap_from or UnixTime(0), UnixTime(1))
        first = Entry(incarnation, self.position.seq + losing + above, EntryKind.NOTHING)
        if gap_from is not None:
            key, record = ended.incarnation.encode(), msgspec.msgpack.encode(restored)
            first = msgspec.structs.replace(first, kind=EntryKind.RECOVERY, key=key, record=record)
        self.append(first)

    def go_live(self) -> None:
        """End the recovery."""
        record = msgspec.msgpack.encode(LiveRecord(UnixTime(2)))
        self.append(Entry(self.incarnation, self.position.seq + 1, EntryKind.RECOVERY, LIVE_KEY, record))

    def doubt(self, number: int) -> None:
        """Say that a consent was touched in the gap."""
        record = msgspec.msgpack.encode(DoubtRecord(UnixTime(2)))
        key = consent_key(number)
        self.append(Entry(self.incarnation, self.position.seq + 1, EntryKind.DOUBT, key, record))

    def _answer_call(self, name: str) -> None:
        self.calls.append(name)
        if self.away:
            raise Away("the feed service is away")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        self._answer_call("snapshot")
        await self.snapshots_allowed.wait()
        async with aclosing(self._pieces()) as pieces:
            yield pieces

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        for sealed in snapshot_of(self.position, self.entries_):
            await trio.lowlevel.checkpoint()
            yield sealed

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        self._answer_call("entries")
        self.fetched.append(after.seq)
        if wait and not self.polls:
            return await trio.sleep(wait) or []
        with trio.move_on_after(wait):
            while self.position.seq <= after.seq and after.incarnation == self.incarnation and not self.away:
                await self._grown.wait()
        await trio.lowlevel.checkpoint()
        if after.incarnation != self.incarnation:
            raise Foreign("another incarnation")
        return [seal(entry, MAC_KEY) for entry in self.entries_ if entry.seq > after.seq]

    async def check(self, question: Question) -> Answer:
        self._answer_call("check")
        await trio.lowlevel.checkpoint()
        self.questions.append(question)
        return Answer(question.instance, question.nonce, self.incarnation, self.position.seq)

    async def report(self, idempotency_key: str, body: bytes) -> None:
        self._answer_call("report")
        await trio.lowlevel.checkpoint()
        if not self.reports_taken:
            raise Away("reports are not taken now")
        if not self.reports_understood:
            raise Foreign("that makes no sense")
        self.reports[idempotency_key] = body

    async def keys(self) -> bytes:
        self._answer_call("keys")
        await trio.lowlevel.checkpoint()
        return self.verification_keys


class MadeProjector:
    """Writes a ledger into Redis and answers questions there, every 20 ms."""

    def __init__(self, ledger: MadeLedger, redis: RedisClient) -> None:
        self.ledger = ledger
        self.redis = redis
        self.written = 0
        self.withheld: set[int] = set()  # positions that never reach the stream
        self.answering = True
        self.asked: list[Question] = []  # the newest question of each look

    async def run(self) -> None:
        while True:
            try:
                await self.turn()
            except RedisFault:
                self.written = 0
            await trio.sleep(0.02)

    async def turn(self) -> None:
        questions = []
        for key in await keys_matching(self.redis, QUESTIONS_PATTERN):
            sealed = await get(self.redis, key)
            if sealed is not None:
                questions.append(unseal_question(sealed, (MAC_KEY,)))
        self.asked += questions
        position = self.ledger.position  # read after the questions
        for entry in self.ledger.entries_:
            if self.written < entry.seq <= position.seq:
                await self._write(entry)
        for question in questions if self.answering else ():
            await self._answer(question, position)

    async def _write(self, entry: Entry) -> None:
        if entry.seq not in self.withheld:
            with contextlib.suppress(RedisRefused):  # it is there already
                await xadd(self.redis, STREAM, stream_id(entry.seq), {STREAM_FIELD: seal(entry, MAC_KEY)})
        self.written = entry.seq

    async def _answer(self, question: Question, position: Position) -> None:
        answer = Answer(question.instance, question.nonce, position.incarnation, position.seq)
        sealed = seal_answer(answer, MAC_KEY)
        await self.redis.execute("XADD", answers_key(question.instance), "MAXLEN", 1, "*", ANSWER_FIELD, sealed)
