"""Derives the outbox from the ledger: woken by it, event by event, in batches of one transaction each.

What follows from a batch is worked out beside the database; the transaction then writes it only if the outbox still
stands where the batch began. So a second sequencer, here or in another process, doubles nothing: whoever comes second
reads what the first one wrote. Killed in the middle, a batch is there as a whole or not at all.
With more than a batch to go, what must be told now is written ahead (`admin.ledger.lookahead`).
"""

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import trio
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.deliveries import FRAMEWORK, held, of_no_use
from admin.ledger.lookahead import Lookahead
from admin.ledger.outbox import Book, Draft, Member, Poll, Push, is_pushable
from admin.ledger.polling import numbers_about_stream
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.signal import Signal
from admin.ledger.sql import SqlLedger
from admin.ledger.store import StoredEvent
from engine.backoff import Backoff
from engine.clock import Seconds
from engine.consent.records import ClientId, ParticipantRecord
from engine.errors import Fault, Kind
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord
from engine.telemetry.logs import logger

BATCH: Final = 500  # events a transaction: about 20 ms in which the embedded database takes no other write
REACH: Final = 7 * 86_400  # seconds: an outbox made anew tells again what poll would still hold, and nothing older
RETRY: Final = Backoff(first=Seconds(0.05), limit=Seconds(1.0))
STUCK: Final = Seconds(30.0)  # between looks at an event that cannot be read: somebody has to act

_LAST_OF_A_SECOND: Final = 0.999
_UNDONE: Final = sa.text("seq = 0 AND (push = 0 OR poll = 0)")  # framework events that may still be had
_records: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)
_encode: Final = msgspec.msgpack.Encoder().encode
_log = logger("admin.sequencer")


class SequencerState(enum.StrEnum):
    """What the sequencer is doing."""

    STARTING = "starting"
    FOLLOWING = "following"
    LEDGER_AWAY = "ledger_away"
    STUCK = "stuck"  # the next event cannot be read, or the outbox refuses what follows from it


class SequencerStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page. position: up to where deliveries were made, as last known."""

    state: SequencerState
    position: int
    made: int  # deliveries written by this process
    last_fault: str


class Overtaken(Fault):
    """Another sequencer has led the outbox on: read it anew."""

    kind = Kind.CONFLICT


class Sequencer:
    """One of possibly several. news: rings when there may be new deliveries, whoever wrote them.

    issuer: of the SETs. wall: seconds since 1970. jitter: gives numbers in [0, 1).
    """

    def __init__(
        self,
        ledger: SqlLedger,
        issuer: str,
        news: Signal,
        *,
        wall: Callable[[], float],
        jitter: Callable[[], float],
        batch: int = BATCH,
    ) -> None:
        self._batch = batch
        self._ledger = ledger
        self._issuer = issuer
        self._news = news
        self._wall = wall
        self._jitter = jitter
        self._book: Book | None = None
        self._position = 0
        self._seen: tuple[int, int] | None = None  # numbers given out and the roster's position, when last rung for
        self._state = SequencerState.STARTING
        self._made = 0
        self._last_fault = ""
        self._lookahead = Lookahead(ledger.database, self._write_ahead)

    def statistics(self) -> SequencerStatistics:
        """As of now."""
        return SequencerStatistics(self._state, self._position, self._made, self._last_fault)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the ledger until cancelled. Ready at once: nobody has to wait for it."""
        task_status.started()
        failures = 0
        while True:
            try:
                if not await self.step():
                    await self._ledger.wait_beyond(self._position)
                failures = 0
            except Overtaken:
                self._book = None
            except Fault as fault:
                failures += 1
                self._note(fault)
                stuck = fault.kind is not Kind.UNAVAILABLE
                await trio.sleep(STUCK if stuck else RETRY.delay(failures, self._jitter()))

    async def step(self) -> bool:
        """Make the deliveries of the next batch; False = the outbox is even with the ledger.

        Raises Overtaken, UnreadableEvent, and the ledger's faults; then nothing was written.
        """
        book = await self._current()
        self._book = None  # until this step has come to its end: a book that ran ahead is of no use
        events = await self._ledger.events(book.seq, self._batch)
        if len(events) == self._batch and await self._lookahead.look(book):
            self._news.ring()
        before, drafts = book.seq, _drafts(book, events)
        if events:
            wall = self._wall()
            stands = await self._ledger.database.run(lambda connection: _write(connection, before, book, drafts, wall))
            self._made += len(drafts)
        else:
            stands = await self._look(book)
        self._ring(stands)
        book.settle()
        self._book, self._position = book, book.seq
        self._state, self._last_fault = SequencerState.FOLLOWING, ""
        return bool(events)

    async def _current(self) -> Book:
        """The book to go on with. One that begins ahead of now was made by a clock that was ahead: it begins anew, as
        of now, or nothing would be told until then.
        """
        book, now = self._book if self._book is not None else await self._open(), int(self._wall())
        if book.rows_from <= now:
            return book
        _log.error("outbox_began_ahead", seconds=book.rows_from - now)
        await self._ledger.database.run(lambda connection: begin_earlier(connection, now - REACH))
        return await self._open()

    async def _open(self) -> Book:
        def read(connection: sa.Connection) -> Book | None:
            return read_book(connection, self._issuer)

        book = await self._ledger.database.read(read)
        if book is None:
            rows_from = int(self._wall()) - REACH
            await self._ledger.database.run(lambda connection: begin(connection, rows_from))
            book = await self._ledger.database.read(read)
        if book is None:
            raise Overtaken("the outbox was taken away as soon as it was there")
        return book

    def _write_ahead(self, connection: sa.Connection, position: int, drafts: Sequence[Draft]) -> None:
        first = take_numbers(connection, len(drafts), position)
        insert_drafts(connection, drafts, first, self._wall())

    async def _look(self, book: Book) -> tuple[int, int]:
        """As `_write` returns it, when nothing was to be written. Raises Overtaken."""
        row = await self._ledger.database.read(_read_cursor)
        if row is None or row.seq != book.seq:
            raise Overtaken("another sequencer has led the outbox on")
        return row.numbered, row.roster_seq

    def _ring(self, stands: tuple[int, int]) -> None:
        """For whatever is new: ours, another sequencer's, or a verification that somebody asked for."""
        if stands != self._seen:
            self._seen = stands
            self._news.ring()

    def _note(self, fault: Fault) -> None:
        away = fault.kind is Kind.UNAVAILABLE
        self._state = SequencerState.LEDGER_AWAY if away else SequencerState.STUCK
        if self._last_fault != fault.text:
            _log.error("sequencer_stopped", text=fault.text, detail=fault.detail)
        self._last_fault = fault.text


def begin(connection: sa.Connection, rows_from: int) -> None:
    """Make the outbox's row where there is none: a new ledger's, or a restored one's."""
    row = {"id": 1, "seq": 0, "roster_seq": 0, "numbered": 0, "rows_from": rows_from, "payloads_pruned": 0}
    connection.execute(insert_into(connection, outbox).values(**row).on_conflict_do_nothing())


def begin_earlier(connection: sa.Connection, rows_from: int) -> None:
    """Events recorded from then on are told, if they were not before."""
    connection.execute(sa.update(outbox).where(outbox.c.rows_from > rows_from).values(rows_from=rows_from))


def read_book(connection: sa.Connection, issuer: str) -> Book | None:
    """The receivers and streams as of the outbox's position, in one snapshot; None: there is no outbox yet."""
    row = _read_cursor(connection)
    if row is None:
        return None
    book = Book(issuer, row.seq, row.roster_seq, row.rows_from)
    for found in connection.execute(sa.select(receivers)):
        book.members[ClientId(found.client_id)] = Member(_records.decode(found.record), found.last_seq)
    for found in connection.execute(sa.select(streams.c.record)):
        book.put(_streams.decode(found.record))
    return book


def take_numbers(connection: sa.Connection, count: int, position: int | None = None) -> int:
    """Reserve numbers of deliveries; returns the first. Until the transaction is over nobody else gets any.

    So whoever sees a number sees all those below it. Raises Overtaken where the outbox stands at another position
    than the one that is asked for.
    """
    raised = sa.update(outbox).values(numbered=outbox.c.numbered + count).returning(outbox.c.numbered)
    if position is not None:
        raised = raised.where(outbox.c.seq == position)
    numbered = connection.execute(raised).scalar()
    if numbered is None:
        raise Overtaken("another sequencer has led the outbox on")
    return int(numbered) - count + 1


def insert_drafts(connection: sa.Connection, drafts: Sequence[Draft], first: int, wall: float) -> None:
    """Write deliveries under the numbers from `first` on. One that is there already stays as it is."""
    if drafts:
        rows = [_row(draft, first + offset, wall) for offset, draft in enumerate(drafts)]
        connection.exec_driver_sql(_INSERT[connection.dialect.name], rows)


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    """The dialect's own insert."""
    return (sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert)(table)


def _drafts(book: Book, events: Sequence[StoredEvent]) -> list[Draft]:
    """Of the events up to the first that cannot be read. Raises UnreadableEvent where that is the first of all."""
    drafts: list[Draft] = []
    for event in events:
        try:
            drafts += book.take(event)
        except Fault:  # what is before it is told, and the next step meets it first
            if event is events[0]:
                raise
            break
    return drafts


def _read_cursor(connection: sa.Connection) -> sa.Row[Any] | None:
    return connection.execute(sa.select(outbox)).first()


def _write(connection: sa.Connection, before: int, book: Book, drafts: Sequence[Draft], wall: float) -> tuple[int, int]:
    """Returns how many numbers the outbox has given out now, and the roster's position. Raises Overtaken."""
    moved = sa.update(outbox).where(outbox.c.seq == before).values(seq=book.seq, roster_seq=book.roster_seq)
    if connection.execute(moved).rowcount != 1:
        raise Overtaken("another sequencer has led the outbox on")
    first = take_numbers(connection, len(drafts))
    insert_drafts(connection, drafts, first, wall)
    _write_members(connection, book)
    _write_streams(connection, book)
    return first + len(drafts) - 1, book.roster_seq


def _write_members(connection: sa.Connection, book: Book) -> None:
    rows = [
        {
            "client_id": client_id,
            "last_seq": book.members[client_id].last_seq,
            "pushable": int(is_pushable(book.stream_of(client_id, DeliveryMethod.PUSH))),
            "record": _encode(book.members[client_id].record),
        }
        for client_id in sorted(book.touched)
    ]
    if rows:
        connection.execute(_upsert(connection, receivers), rows)


def _write_streams(connection: sa.Connection, book: Book) -> None:
    there = [book.streams[one] for one in sorted(book.changed_streams) if one in book.streams]
    gone = {one: whose for one, whose in sorted(book.changed_streams.items()) if one not in book.streams}
    if there:
        rows = [{"stream_id": one.stream_id, "client_id": one.client_id, "record": _encode(one)} for one in there]
        connection.execute(_upsert(connection, streams), rows)
    if gone:
        connection.execute(sa.delete(streams).where(streams.c.stream_id.in_(list(gone))))
    if there or gone:
        drop_told_of(connection, gone, [one.stream_id for one in there])


def drop_told_of(connection: sa.Connection, gone: Mapping[str, ClientId], changed: Collection[str] = ()) -> None:
    """What a stream was told of itself has nowhere to go once it is deleted, by push or by poll. gone: ids, and whose.

    Nor has a challenge of a changed one that was replaced or answered: it would be owed for three months. Lanes are
    named, all of them, so that SQLite takes the index of framework events and not the whole table. All rows are locked
    in one order.
    """
    lanes = deliveries.c.lane.in_([int(lane) for lane in Lane])
    about = sa.select(deliveries.c.number).where(FRAMEWORK, lanes, deliveries.c.subject.in_(list(gone)))
    found = set(connection.execute(about).scalars())
    found |= set(of_no_use(connection, sa.and_(FRAMEWORK, lanes, deliveries.c.subject.in_(list(changed)))))
    for stream_id, client_id in gone.items():
        found |= numbers_about_stream(connection, client_id, stream_id)
    numbers = held(connection, found, _UNDONE, skip=False)
    push = sa.case((deliveries.c.push == int(Push.PENDING), int(Push.NONE)), else_=deliveries.c.push)
    poll = sa.case((deliveries.c.poll == int(Poll.OPEN), int(Poll.NONE)), else_=deliveries.c.poll)
    if numbers:
        connection.execute(sa.update(deliveries).where(deliveries.c.number.in_(numbers)).values(push=push, poll=poll))


def _upsert(connection: sa.Connection, table: sa.Table) -> Any:  # noqa: ANN401 - as above
    insert = insert_into(connection, table)
    rest = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=[c.name for c in table.primary_key.columns], set_=rest)


# In the drivers' own words: a flood writes millions of rows, and putting each into a statement costs as much as it.
_COLUMNS: Final = (
    "number", "client_id", "role", "lane", "seq", "prev", "jti", "txn", "subject", "committed_at", "fact", "push",
    "attempts", "next_at", "error", "poll", "poll_error",
)  # fmt: skip


def _insert(place: str) -> str:
    places = ", ".join(place for _ in _COLUMNS)
    return f"INSERT INTO deliveries ({', '.join(_COLUMNS)}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours


_INSERT: Final = {"sqlite": _insert("?"), "postgresql": _insert("%s")}


def _row(draft: Draft, number: int, wall: float) -> tuple[Any, ...]:
    # The event knows its second; when it was seen here is nearer to the commit, within that second.
    committed_at = min(max(wall, draft.recorded_at), draft.recorded_at + _LAST_OF_A_SECOND)
    return (
        number,
        draft.client_id,
        int(draft.role),
        int(draft.lane),
        draft.seq,
        draft.prev,
        draft.jti,
        draft.txn,
        draft.subject,
        committed_at,
        _encode(draft.fact),
        int(draft.push),
        0,
        0.0,
        "",
        int(draft.poll),
        "",
    )
