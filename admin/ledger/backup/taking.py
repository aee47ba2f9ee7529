"""Takes one segment of a backup: all of it, or what came since the one before, from one snapshot of the database.

The service writes on meanwhile. Rows are read page by page and sealed as they come, so memory does not grow with the
ledger. What is new since a segment is found by numbers where there are numbers; claims and reports have only times, so
these are looked for a while back, and rows that were shipped already are shipped again and change nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger import migrations
from admin.ledger.backup.contents import KEPT, End, Head, Kept, Marks, Rows, encode
from admin.ledger.backup.sealed import SealedWriter
from admin.ledger.bulk import NoLedger
from admin.ledger.erasures import ledger_id
from admin.ledger.reader import read_head
from admin.ledger.schema import answer_keys, checkpoints, claims, erasures, events, ledger_meta, person_keys, reports
from engine.errors import Fault, Kind

OVERLAP: Final = 300.0  # seconds: longer than a transaction may take and clocks of our machines may differ
QUIET: Final = 60.0  # seconds; well below OVERLAP, so that what committed late is still looked for

Report = Callable[[int], None]  # seq of the events written so far
Start = tuple[Any, ...] | None


class OtherSchema(Fault):
    """The database, or a backup of it, has another schema than this program."""

    kind = Kind.CONFLICT


class Taken(msgspec.Struct, frozen=True):
    """A segment that was written."""

    head: Head
    counts: dict[str, int]


def read_marks(connection: sa.Connection, wall: float) -> Marks:
    """Where the ledger stands now."""
    head = read_head(connection)
    incarnation = head.position.incarnation
    newest = sa.select(sa.func.coalesce(sa.func.max(checkpoints.c.seq), 0)).where(
        checkpoints.c.incarnation == incarnation
    )
    erased = sa.select(sa.func.coalesce(sa.func.max(erasures.c.number), 0))
    keys = connection.execute(sa.select(answer_keys).order_by(answer_keys.c.kid)).all()
    digest = hashlib.sha256(msgspec.msgpack.encode([tuple(row) for row in keys])).digest()
    return Marks(
        incarnation,
        head.position.seq,
        head.hash,
        connection.execute(newest).scalar_one(),
        connection.execute(erased).scalar_one(),
        wall,
        digest,
    )


def read_head_of_segment(connection: sa.Connection, after: Marks | None, wall: float) -> Head:
    """What a segment of this snapshot begins with. Raises NoLedger, OtherSchema."""
    revision = migrations.revision_of(connection)
    if revision is None:
        raise NoLedger("the database holds no ledger")
    if revision != migrations.newest():
        raise OtherSchema(
            f"the database has schema {revision}, this program {migrations.newest()}: start the service once, "
            "or use the program that the service runs"
        )
    until = read_marks(connection, wall)
    meta = connection.execute(sa.select(ledger_meta.c.kind, ledger_meta.c.created_at, ledger_meta.c.key_check)).one()
    recorded_at = connection.execute(sa.select(events.c.recorded_at).where(events.c.seq == until.seq)).scalar_one()
    return Head(ledger_id(connection), meta.kind, revision, meta.created_at, meta.key_check, after, until, recorded_at)


def is_news(connection: sa.Connection, after: Marks, until: Marks) -> bool:
    """Whether a segment between the two would hold anything, or is due to show that somebody ships."""
    if not 0 <= until.wall - after.wall < QUIET or msgspec.structs.replace(until, wall=after.wall) != after:
        return True
    times = (claims.c.claimed_at, reports.c.received_at)
    return any(connection.execute(sa.select(sa.exists().where(time >= after.wall))).scalar_one() for time in times)


def write_segment(connection: sa.Connection, writer: SealedWriter, head: Head, report: Report) -> Taken:
    """Write everything that belongs between the head's marks. The connection holds one snapshot."""
    if connection.dialect.name == "postgresql":  # a large ledger takes minutes, a slow disk pauses in between
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    writer.write(encode(head))
    counts: dict[str, int] = {}
    for kept in KEPT:
        for page in _pages(connection, kept, head.after, head.until):
            counts[kept.name] = counts.get(kept.name, 0) + len(page)
            writer.write(encode(Rows(kept.name, page)))
            report(page[-1][0] if kept.table is events else head.until.seq)
    writer.write(encode(End(counts)))
    return Taken(head, counts)


def _pages(connection: sa.Connection, kept: Kept, after: Marks | None, until: Marks) -> Iterator[list[list[Any]]]:
    """Rows of one table, in order, `kept.page` at a time."""
    places = [kept.table.columns.keys().index(column.name) for column in kept.order]
    start, extra = (None, ()) if after is None else _since(kept, after, until)
    while True:
        query = sa.select(kept.table).where(*extra).order_by(*kept.order).limit(kept.page)
        if start is not None:
            query = query.where(_behind(kept.order, start))
        page = [list(row) for row in connection.execute(query)]
        if page:
            yield page
        if len(page) < kept.page:
            return
        start = tuple(page[-1][place] for place in places)


def _since(kept: Kept, after: Marks, until: Marks) -> tuple[Start, Sequence[sa.ColumnElement[bool]]]:
    """From where on a table has news, and which rows of it count."""
    table = kept.table
    if table is events:
        return (after.seq,), ()
    if table is checkpoints:
        return (until.incarnation, after.checkpoint), (checkpoints.c.incarnation == until.incarnation,)
    if table is erasures:
        return (after.erasure,), ()
    if table is person_keys:  # a key is drawn with the first event of its person
        used = sa.select(events.c.person_id).where(events.c.seq > after.seq)
        return None, (person_keys.c.person_id.in_(used),)
    if table is answer_keys:
        return None, (sa.literal(after.answer_keys != until.answer_keys),)
    assert kept.since is not None  # noqa: S101 - the tables above are those without
    by_time = min(after.wall, until.wall) - OVERLAP  # the clock may have been set back
    from_value = after.seq + 1 if kept.since.name == "seq" else by_time
    return None, (kept.since >= from_value,)


def _behind(order: Sequence[sa.Column[Any]], start: tuple[Any, ...]) -> sa.ColumnElement[bool]:
    values = [sa.literal(value, column.type) for column, value in zip(order, start, strict=True)]
    return sa.tuple_(*order) > sa.tuple_(*values)
