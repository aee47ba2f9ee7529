"""Is the ledger what it was? Walks the whole chain and names the first entry that is wrong.

First every event against its hash, its predecessor and the signed checkpoints, in batches, so that a ledger of any
size is walked in little memory while it is written to. Then, in one snapshot, what is derived from the events:
the head, the kind, the versions of subjects, the newest feed records. Where the database itself is damaged, the walk
goes on in ever smaller steps to the last event that can still be read.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import func

from admin.ledger.bulk import NoLedger
from admin.ledger.chain import Break, Walk
from admin.ledger.checkpoints import Checkpoint, CheckpointKey, fault_in
from admin.ledger.database import DatabaseFault
from admin.ledger.genesis import WrongLedger, kind_of
from admin.ledger.reader import SqlLedgerReader, read_events, read_head, stored_checkpoint
from admin.ledger.schema import checkpoints, events, feed_records, ledger_meta, person_keys, subjects
from admin.ledger.store import Head, LedgerDamaged, LedgerUnavailable, StoredEvent
from engine.feed.entries import Position

BATCH: Final = 2_000  # events read and hashed in one go: a few MB, some 30 ms
_UNREADABLE: Final = (LedgerDamaged, DatabaseFault)  # the latter: our own statements do not fit what is there
_BEFORE_ALL: Final = -(2**62)  # numbers below 1 are found too

Progress = Callable[[int, int], None]  # events walked, events in all


class Verdict(msgspec.Struct, frozen=True):
    """What was found. fault: None = the ledger is whole."""

    events: int  # that were walked and found right
    checkpoints: int  # likewise
    head: Head  # where it cannot be read: the last event that was found right
    newest: Checkpoint | None  # to be kept elsewhere, for a later `against`
    fault: Break | None
    persons: int = 0  # that events name
    erased: int = 0  # of these, without a key: erasure is lawful, so this is no fault; all at once may be a surprise


async def verify(
    reader: SqlLedgerReader,
    key: CheckpointKey,
    *,
    against: Sequence[Checkpoint] = (),
    progress: Progress = lambda _walked, _all: None,
) -> Verdict:
    """Check everything. against: checkpoints that were kept outside this database.

    Damage is a verdict too. Raises LedgerUnavailable, NoLedger.
    """
    inspection = _Inspection(key, against)
    head = await _head_of(reader)
    end = head.position.seq if head else sys.maxsize
    count = await _count(reader)
    while inspection.fault is None and inspection.walk.seq < end and await _step(reader, inspection):
        progress(inspection.events, max(count, inspection.events))
    if inspection.fault is None:
        await _finish(reader, inspection)
    return inspection.verdict(head or inspection.reached())


def verify_within(
    connection: sa.Connection, key: CheckpointKey, *, progress: Progress = lambda _walked, _all: None
) -> Verdict:
    """Check everything inside one transaction, before it commits. Call in a thread. Raises what the database does."""
    inspection, head = _Inspection(key, ()), read_head(connection)
    count = connection.execute(_all_events()).scalar_one()
    while inspection.fault is None and inspection.step(connection):
        progress(inspection.events, count)
    inspection.finish(connection)
    return inspection.verdict(head)


async def _head_of(reader: SqlLedgerReader) -> Head | None:
    """The head; None where there is a ledger, but its head cannot be read."""
    try:
        return await reader.head()
    except _UNREADABLE:
        return None
    except NoLedger:
        with suppress(*_UNREADABLE):
            if not await reader.events(_BEFORE_ALL, 1):
                raise
        return None


async def _count(reader: SqlLedgerReader) -> int:
    """How many events there are, for whoever watches: numbers do not tell, a restore leaves some out."""
    try:
        return await reader.database.read(lambda connection: connection.execute(_all_events()).scalar_one())
    except (*_UNREADABLE, LedgerUnavailable):  # counting many may take longer than a statement may
        return 0


def _all_events() -> sa.Select[int]:
    return sa.select(func.count()).select_from(events)


async def _step(reader: SqlLedgerReader, inspection: "_Inspection") -> bool:
    """Check the next batch; False when there was none. Damage makes the batches smaller before it is believed."""
    while True:
        try:
            return await reader.database.read(inspection.step)
        except _UNREADABLE:
            if inspection.batch == 1:
                inspection.stop("the database is damaged")
                return False
            inspection.batch = max(1, inspection.batch // 8)


async def _finish(reader: SqlLedgerReader, inspection: "_Inspection") -> None:
    try:
        await reader.database.read(inspection.finish)
    except (*_UNREADABLE, NoLedger):
        inspection.stop("the database is damaged: its head, or a table that follows from the events, cannot be read")


class _Inspection:
    """One walk over one ledger; its methods run in a thread, one after another."""

    def __init__(self, key: CheckpointKey, against: Sequence[Checkpoint]) -> None:
        self.walk = Walk()
        self.events = 0
        self.checkpoints = 0
        self.newest: Checkpoint | None = None
        self.fault: Break | None = None
        self.persons = self.erased = 0
        self.batch = BATCH
        self._after = _BEFORE_ALL
        self._key = key
        self._against = sorted(against, key=lambda checkpoint: checkpoint.seq)

    def step(self, connection: sa.Connection) -> bool:
        """Check the next batch. False when there was none."""
        batch = read_events(connection, self._after, self.batch)
        if not batch:
            return False
        last = batch[-1].position.seq
        signed = self._signed(connection, self._after, last)
        for event in batch:
            self.fault = _break_at(self.walk, event)
            for checkpoint in signed.pop(event.position.seq, ()):
                self.fault = self.fault or self._compare(checkpoint, event.hash)
            if self.fault is not None:
                return True
            self.events += 1
        self._after = last
        self.fault = _unmatched(signed)
        return True

    def finish(self, connection: sa.Connection) -> None:
        """Check, in one snapshot, what is derived from the events. The walk has to catch up with it first."""
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        while self.fault is None and self.step(connection):
            pass
        if self.fault is None:
            self.fault = _unmatched(self._signed(connection, self._after, 2**62)) or self._head(connection)
        self.fault = self.fault or _kinds_differ(connection)
        for query, what in _DERIVED:
            if self.fault is None and (seq := connection.execute(query).scalar()) is not None:
                self.fault = Break(seq, what)
        if self.fault is None:
            self.persons, self.erased = connection.execute(_persons()).one()

    def stop(self, what: str) -> None:
        """Nothing further can be read."""
        last = f"event {self.walk.seq} is the last that could be checked" if self.walk.seq else "no event can be read"
        self.fault = Break(self.walk.seq + 1, f"{what}; {last}")

    def verdict(self, head: Head) -> Verdict:
        """What was found so far."""
        return Verdict(self.events, self.checkpoints, head, self.newest, self.fault, self.persons, self.erased)

    def reached(self) -> Head:
        """Where the walk stands."""
        return Head(Position(self.walk.incarnation or "", self.walk.seq), self.walk.hash)

    def _signed(self, connection: sa.Connection, after: int, last: int) -> dict[int, list[Checkpoint]]:
        query = sa.select(checkpoints).where(checkpoints.c.seq.between(after + 1, last)).order_by(checkpoints.c.seq)
        signed: dict[int, list[Checkpoint]] = {}
        for checkpoint in [
            *map(stored_checkpoint, connection.execute(query)),
            *(kept for kept in self._against if after < kept.seq <= last),
        ]:
            signed.setdefault(checkpoint.seq, []).append(checkpoint)
        return dict(sorted(signed.items()))

    def _compare(self, checkpoint: Checkpoint, found: bytes) -> Break | None:
        what = fault_in(checkpoint, self._key)
        if what is None and (checkpoint.incarnation, checkpoint.hash) != (self.walk.incarnation, found):
            what = "its hash is not the one that a checkpoint vouches for"
        if what is not None:
            return Break(checkpoint.seq, what)
        self.checkpoints += 1
        self.newest = checkpoint
        return None

    def _head(self, connection: sa.Connection) -> Break | None:
        head = read_head(connection)
        if self.walk.seq < head.position.seq:
            return Break(self.walk.seq + 1, f"events {self.walk.seq + 1} to {head.position.seq} are missing at the end")
        if self.walk.seq > head.position.seq:
            return Break(head.position.seq + 1, "it stands behind the ledger's head")
        if (self.walk.incarnation, self.walk.hash) != (head.position.incarnation, head.hash):
            return Break(head.position.seq, "it is not what the ledger's head says")
        return None


def _break_at(walk: Walk, event: StoredEvent) -> Break | None:
    try:
        return walk.first_break((event,))
    except (TypeError, ValueError, OverflowError):  # a damaged row may hold what no column of its type could
        return Break(event.position.seq, "its row holds values that are not of their columns' types")


def _kinds_differ(connection: sa.Connection) -> Break | None:
    """The kind stands twice: in the first event, which counts, and beside the head."""
    kept = connection.execute(sa.select(ledger_meta.c.kind)).scalar()
    try:
        said = kind_of(connection)
    except WrongLedger as fault:
        return Break(1, fault.text)
    return None if kept == said else Break(1, f"it begins a {said} ledger, the ledger's head calls it {kept}")


def _unmatched(signed: dict[int, list[Checkpoint]]) -> Break | None:
    for seq in signed:
        return Break(seq, "a checkpoint vouches for this event, which is not there")
    return None


def _versions_in_order() -> sa.Select[Any]:
    nth = func.row_number().over(partition_by=events.c.subject, order_by=events.c.seq).label("nth")
    numbered = sa.select(events.c.seq, events.c.version, nth).subquery()
    return sa.select(func.min(numbered.c.seq)).where(numbered.c.version != numbered.c.nth)


def _subjects_agree() -> sa.Select[Any]:
    newest = sa.select(
        events.c.subject, func.max(events.c.version).label("version"), func.max(events.c.seq).label("seq")
    ).group_by(events.c.subject)
    return _differences(newest.subquery(), subjects, ("subject",), ("version", "seq"))


def _records_agree() -> sa.Select[Any]:
    newest = (
        sa.select(func.max(events.c.seq).label("seq"))
        .where(events.c.feed_kind.is_not(None))
        .group_by(events.c.feed_kind, events.c.feed_key)
        .subquery()
    )
    said = sa.select(
        events.c.feed_kind.label("kind"),
        events.c.feed_key.label("key"),
        events.c.seq,
        events.c.feed_record.label("record"),
    ).join(newest, newest.c.seq == events.c.seq)
    return _differences(said.subquery(), feed_records, ("kind", "key"), ("seq", "record"))


def _persons() -> sa.Select[int, int]:
    named = sa.select(events.c.person_id).where(events.c.person_id.is_not(None)).distinct().subquery()
    keyed = func.count(person_keys.c.person_id)
    return sa.select(func.count(), func.count() - keyed).select_from(
        named.outerjoin(person_keys, person_keys.c.person_id == named.c.person_id)
    )


def _differences(said: Any, kept: Any, key: Sequence[str], rest: Sequence[str]) -> sa.Select[Any]:  # noqa: ANN401 - table or subquery
    """The smallest seq of a row that is only in one of the two, or differs."""
    same = sa.and_(*(said.c[name] == kept.c[name] for name in key))
    differs = sa.or_(*(said.c[name] != kept.c[name] for name in rest))
    missing = sa.select(said.c.seq).outerjoin_from(said, kept, same).where(kept.c.seq.is_(None) | differs)
    surplus = sa.select(kept.c.seq).outerjoin_from(kept, said, same).where(said.c.seq.is_(None))
    found = sa.union_all(missing, surplus).subquery()
    return sa.select(func.min(found.c.seq))


_DERIVED: Final = (
    (_versions_in_order(), "its subject's versions do not count up one by one"),
    (_subjects_agree(), "the table of subjects does not say what the events say"),
    (_records_agree(), "the table of feed records does not say what the events say"),
)
