"""Beside a long way to go: what must be told now is told before the single ends that a suspension has told already.

A million ends of one ATP keep the sequencer busy for minutes, and whatever was recorded behind them would wait as long.
So a copy of its book goes ahead over the events, makes no deliveries of lane BULK, and writes the others at once. Of an
event that can only be BULK it reads no more than what moves the chains on, so that it gets to the ledger's end sooner
than others write on. What it writes are the rows that the sequencer makes when it comes there: the same ids, the same
chains. It leaves rows that are there as they are, so that nothing is doubled; and because the cursor has not moved,
nothing is lost if all this ends in the middle.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.database import Database
from admin.ledger.events import UnreadableEvent
from admin.ledger.outbox import SINGLE_ENDS, Book, Draft
from admin.ledger.reader import stored_event
from admin.ledger.schema import events
from admin.ledger.store import StoredEvent
from engine.consent.records import ConsentRecord
from engine.pusher.service import Lane

PAGE: Final = 2_000  # events looked at in one transaction: some ten milliseconds where they are bulk
PAGES: Final = 50  # in one look: the sequencer's own batch must come to its turn as well
ENOUGH: Final = 1_000  # deliveries written ahead in one look: no more work is done twice than that
WHOLE: Final = 500  # events read with their bodies in one query

_consents: Final = msgspec.msgpack.Decoder(ConsentRecord)


class _Scan(msgspec.Struct, frozen=True):
    """halted_at: an event that is for the sequencer, and what is behind it with it; 0 = there was none.

    Such are an event that changes a receiver or a stream, because what is behind it rests on rows that are not there
    yet, and one that cannot be read.
    """

    drafts: list[Draft]
    halted_at: int = 0
    more: bool = False


Write = Callable[[sa.Connection, int, list[Draft]], None]


class Lookahead:
    """One sequencer's. write: stores drafts if the outbox still stands at that position, else raises."""

    def __init__(self, database: Database, write: Write, *, page: int = PAGE) -> None:
        self._database = database
        self._write = write
        self._page = page
        self._book: Book | None = None
        self._halted_at = 0

    async def look(self, book: Book) -> int:
        """Go on from where the last look ended; returns how many deliveries were written.

        book: the sequencer's, as it stands in the database. Raises what `write` raises, and the ledger's faults; the
        next look then begins at the sequencer's position.
        """
        if book.seq < self._halted_at:
            return 0
        ahead, self._book = self._book, None
        if ahead is None or ahead.seq < book.seq:
            ahead = book.fork(left_out=Lane.BULK)
        written = 0
        for _ in range(PAGES):
            scan = await self._database.read(_scanning(ahead, book.roster_seq, self._page))
            if scan.drafts:
                await self._database.run(_writing(self._write, book.seq, scan.drafts))
                written += len(scan.drafts)
            self._halted_at = scan.halted_at
            if scan.halted_at:
                return written
            if not scan.more or written >= ENOUGH:
                break
        self._book = ahead
        return written


def _scanning(ahead: Book, roster_seq: int, page: int) -> Callable[[sa.Connection], _Scan]:
    def scan(connection: sa.Connection) -> _Scan:
        drafts: list[Draft] = []
        rows = connection.execute(_heads(ahead.seq, page)).all()
        heads = [(row.seq, _left_out(ahead, row.tag, row.feed_record)) for row in rows]
        bodies = _bodies(connection, [seq for seq, left_out in heads if left_out is None])
        for seq, left_out in heads:
            if left_out is not None:
                ahead.pass_over(seq, left_out)
                continue
            try:
                made = ahead.take(next(bodies))
            except UnreadableEvent:  # the sequencer will say so, once it is there
                return _Scan(drafts, seq)
            if ahead.roster_seq != roster_seq:  # up to here nobody was suspended or reinstated
                return _Scan(drafts, seq)
            drafts += made
        return _Scan(drafts, more=len(heads) == page)

    return scan


def _heads(after: int, limit: int) -> sa.Select[Any]:
    """Of each event as much as says whether it is one of many that a suspension has told."""
    return (
        sa.select(events.c.seq, events.c.tag, events.c.feed_record)
        .where(events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    )


def _left_out(ahead: Book, tag: str, record: bytes | None) -> ConsentRecord | None:
    """The consent of an event that makes nothing in this book; None: it may make something."""
    if record is None or tag not in SINGLE_ENDS:
        return None
    consent = _consents.decode(record)
    return consent if ahead.leaves_out(consent.atp) else None


def _bodies(connection: sa.Connection, wanted: Sequence[int]) -> Iterator[StoredEvent]:
    """These events whole, in their order."""
    for start in range(0, len(wanted), WHOLE):
        some = wanted[start : start + WHOLE]
        query = sa.select(events).where(events.c.seq.in_(some)).order_by(events.c.seq)
        yield from [stored_event(row) for row in connection.execute(query)]


def _writing(write: Write, position: int, drafts: list[Draft]) -> Callable[[sa.Connection], None]:
    return lambda connection: write(connection, position, drafts)
