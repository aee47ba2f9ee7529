"""Reading the ledger from SQL. Each call sees one snapshot; events come in the order of their numbers, without gaps.

Writers of all processes commit one after another, in the order of the numbers they give; so whoever sees event
n + 1 sees n.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from admin.ledger.bulk import NoLedger
from admin.ledger.checkpoints import Checkpoint
from admin.ledger.database import Database
from admin.ledger.personal import PersonKey, Safe
from admin.ledger.schema import checkpoints, events, feed_records, idempotency, ledger_meta, person_keys, subjects
from admin.ledger.store import FeedRecord, Head, Idempotency, Receipt, StoredEvent, SubjectState
from admin.ledger.transaction import earlier_from
from engine.clock import UnixTime
from engine.feed.entries import EntryKind, Position

_KINDS: Final = {int(kind): kind for kind in EntryKind}


class SqlLedgerReader:
    """The read-only half of the ledger."""

    def __init__(self, database: Database, safe: Safe) -> None:
        self.database = database
        self._safe = safe

    async def head(self) -> Head:
        """The last event's position and hash."""
        return await self.database.read(read_head)

    async def events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events with seq > after, in order, at most `limit`."""
        return await self.database.read(lambda connection: read_events(connection, after, limit))

    async def before_newest(self, count: int) -> int:
        """The seq behind which the newest `count` events stand; a restore leaves numbers out, so they are counted."""
        newest = sa.select(events.c.seq).order_by(events.c.seq.desc()).limit(count).subquery()
        lowest = sa.select(sa.func.coalesce(sa.func.min(newest.c.seq) - 1, sa.literal(2**62)))
        found = await self.database.read(lambda connection: connection.execute(lowest).scalar_one())
        return min(int(found), (await self.head()).position.seq)

    async def subject(self, subject: str) -> SubjectState | None:
        """The subject's newest event, decrypted as far as its person's key is still there. Raises PersonalBroken."""
        query = _states.where(subjects.c.subject == subject)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else self._state(row)

    async def subjects(self, names: Sequence[str]) -> Sequence[SubjectState]:
        """The same of several, in no order; those that there are. Raises PersonalBroken."""
        if not names:
            return []
        query = _states.where(subjects.c.subject.in_(names))
        return await self.database.read(lambda connection: [self._state(row) for row in connection.execute(query)])

    def _state(self, row: sa.Row[Any]) -> SubjectState:
        event = stored_event(row)
        key = None if row.key_id is None else PersonKey(row.person_id, row.key_id, row.wrapped_key)
        sealed = event.ciphertext
        personal = None if sealed is None else self._safe.unseal(key, row.asked, event.version, sealed)
        floor = row.of_ledger if row.of_ledger > event.position.seq else 0
        return SubjectState(row.asked, event.version, event, personal, floor)

    async def records(self, after: tuple[int, bytes], limit: int) -> Sequence[tuple[int, FeedRecord]]:
        """The newest feed record of each (kind, key) above `after`, in order, each with its seq."""
        place = sa.tuple_(feed_records.c.kind, feed_records.c.key)
        query = (
            sa.select(feed_records)
            .where(place > sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
            .order_by(feed_records.c.kind, feed_records.c.key)
            .limit(limit)
        )
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [(row.seq, FeedRecord(EntryKind(row.kind), row.key, row.record)) for row in rows]

    async def replayed(self, used: Idempotency) -> Receipt | None:
        """The receipt of an earlier write under this key. Raises IdempotencyMismatch."""
        query = sa.select(idempotency).where(idempotency.c.client_id == used.client_id, idempotency.c.key == used.key)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else earlier_from(row).replay(used)

    async def checkpoints(self, after: int, limit: int) -> Sequence[Checkpoint]:
        """Signed checkpoints with seq > after, in order."""
        query = sa.select(checkpoints).where(checkpoints.c.seq > after).order_by(checkpoints.c.seq).limit(limit)
        rows = await self.database.read(lambda connection: connection.execute(query).all())
        return [stored_checkpoint(row) for row in rows]


def read_head(connection: sa.Connection) -> Head:
    """The end of the ledger. Raises NoLedger."""
    query = sa.select(ledger_meta.c.incarnation, ledger_meta.c.head_seq, ledger_meta.c.head_hash)
    row = connection.execute(query).first()
    if row is None:
        raise NoLedger("the database holds no ledger")
    return Head(Position(row.incarnation, row.head_seq), row.head_hash)


def read_events(connection: sa.Connection, after: int, limit: int) -> list[StoredEvent]:
    """Events with seq > after, in order, at most `limit`."""
    query = sa.select(events).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    return [stored_event(row) for row in connection.execute(query)]


def stored_event(row: sa.Row[Any]) -> StoredEvent:
    """A row that holds the columns of `events`."""
    kind = row.feed_kind
    return StoredEvent(
        Position(row.incarnation, row.seq),
        row.subject,
        row.tag,
        row.version,
        row.recorded_at,
        row.body,
        row.person_id,
        row.ciphertext,
        None if kind is None else FeedRecord(_KINDS.get(kind, kind), row.feed_key, row.feed_record),
        row.previous_hash,
        row.hash,
    )


def stored_checkpoint(row: sa.Row[Any]) -> Checkpoint:
    """A row of `checkpoints`."""
    return Checkpoint(row.incarnation, row.seq, row.hash, UnixTime(row.signed_at), row.kid, row.signature)


_ledgers: Final = subjects.alias("ledgers")
_OF_LEDGER: Final = (
    sa.select(_ledgers.c.seq).where(_ledgers.c.subject == "ledger").scalar_subquery().label("of_ledger")
)  # its creation, restore or going live
_states: Final = sa.select(
    events, subjects.c.subject.label("asked"), person_keys.c.key_id, person_keys.c.wrapped_key, _OF_LEDGER
).select_from(
    subjects.join(events, events.c.seq == subjects.c.seq).outerjoin(
        person_keys, person_keys.c.person_id == events.c.person_id
    )
)
