"""The steps of a restore: rows of all segments, what follows from them, erasures, a new incarnation, and a check.

Each step takes a connection in a read-write transaction; whether all share one is the caller's business.
"""

import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger import genesis, migrations
from admin.ledger.admission import Admission, Write
from admin.ledger.backup.contents import BY_NAME, End, Head, Marks, Rows
from admin.ledger.backup.place import Place
from admin.ledger.backup.positions import first_position
from admin.ledger.backup.sealed import BrokenBackup
from admin.ledger.backup.taking import OtherSchema
from admin.ledger.bulk import bulk_for
from admin.ledger.checkpoints import CheckpointKey, sign_checkpoint
from admin.ledger.erasures import Erasure, ledger_id, read_journal, write_down
from admin.ledger.events import LedgerRestored, append_of, subject_of
from admin.ledger.personal import Safe
from admin.ledger.schema import checkpoints, erasures, events, ledger_meta, metadata, person_keys, subjects
from admin.ledger.store import Head as LedgerHead
from admin.ledger.verify import Verdict, verify_within
from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.feed.entries import Position

Progress = Callable[[str, int, int], None]  # what is being done, how far, of how much
Step = Callable[[sa.Connection], None]


class TargetNotEmpty(Fault):
    """A ledger is restored into an empty database only."""

    kind = Kind.CONFLICT


class RestoredBroken(Fault):
    """What the backup holds is no whole ledger under these keys."""

    kind = Kind.BROKEN


class Source(msgspec.Struct, frozen=True):
    """The segments to restore from: the first `segments` of a series. reported: positions that other series show."""

    series: str
    segments: int
    reported: int

    @property
    def name(self) -> str:
        """Names the backup for ever: the series and its last segment."""
        return f"{self.series}/{self.segments - 1}"


class Keys(msgspec.Struct, frozen=True):
    """What a restored ledger must fit. journal: of erasures, in another place."""

    kind: genesis.LedgerKind
    safe: Safe
    checkpoint: CheckpointKey
    journal: Path | None = None


class Restored(msgspec.Struct, frozen=True):
    """What was made. position: of the event that says so. erased: persons erased again."""

    backup: str
    position: Position
    event: LedgerRestored
    counts: dict[str, int]
    verdict: Verdict


class Filling:
    """The steps of one restore, in order; each takes a connection in a read-write transaction."""

    def __init__(
        self, place: Place, source: Source, keys: Keys, wall: float, reported: int, progress: Progress
    ) -> None:
        self._place = place
        self._source = source
        self._keys = keys
        self._wall = wall
        self._reported = reported
        self._progress = progress
        self._heads: list[Head] = []
        self._counts: dict[str, int] = {}
        self._erased = 0
        self._restored: tuple[Position, LedgerRestored] | None = None
        self._verdict: Verdict | None = None

    def refuse_early(self) -> None:
        """What the last segment's head tells, before much is read. Raises OtherSchema, WrongLedger … as `restore`."""
        head = self._place.head(self._source.series, self._source.segments - 1)
        _refuse_schema(head)
        if head.kind != self._keys.kind:
            raise genesis.WrongLedger(
                f"this is a backup of a {head.kind} ledger, the settings ask for a {self._keys.kind} one"
            )
        if head.key_check is not None and head.key_check != self._keys.safe.check_value:
            raise genesis.WrongPersonKey(
                "person-key-file: this is not the key that wraps the persons' keys of this ledger"
            )
        self._first_position(head)
        self._journal(head.ledger)

    def all_at_once(self, connection: sa.Connection) -> None:
        """Every step in one transaction."""
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        for step in self.steps():
            step(connection)

    def steps(self) -> Iterator[Step]:
        """What is to be done, one after another: a step is made when the one before has been done."""
        yield _refuse_rows
        yield migrations.upgrade
        for index in range(self._source.segments):
            yield from self._segment(index)
        yield self._derive
        yield self._erase_again
        yield self._begin_incarnation
        yield self._check

    def result(self) -> Restored:
        """What was made."""
        assert self._restored is not None  # noqa: S101 - all steps are done
        assert self._verdict is not None  # noqa: S101 - likewise
        return Restored(
            f"{self._source.series}/{self._source.segments - 1}", *self._restored, self._counts, self._verdict
        )

    def _segment(self, index: int) -> Iterator[Step]:
        for part in self._place.parts(self._source.series, index):
            if isinstance(part, Head):
                self._take_head(part, index)
            elif isinstance(part, Rows):
                yield partial(_insert, rows=part, is_first=index == 0)
                self._counts[part.table] = self._counts.get(part.table, 0) + len(part.rows)
                self._progress("segments", index, self._source.segments)
            else:
                assert isinstance(part, End)  # noqa: S101 - there is no fourth part

    def _take_head(self, head: Head, index: int) -> None:
        _refuse_schema(head)
        before = self._heads[-1] if self._heads else None
        if head.after != (before.until if before else None) or (before and before.ledger != head.ledger):
            raise BrokenBackup(f"{self._source.series}: segment {index} does not follow on the one before it")
        self._heads.append(head)

    def _derive(self, connection: sa.Connection) -> None:
        """The head and what follows from the events, as they were when the backup was made."""
        head = self._heads[-1]
        until = head.until
        values: dict[str, Any] = {"id": 1, "incarnation": until.incarnation, "kind": head.kind}
        connection.execute(
            sa.insert(ledger_meta).values(
                **values, head_seq=until.seq, head_hash=until.hash, created_at=head.created_at, key_check=head.key_check
            )
        )
        genesis.check_kind(connection, self._keys.kind)
        genesis.check_person_key(connection, self._keys.safe)
        self._progress("deriving", 0, 1)
        bulk_for(connection).advance(0, _head_at(until))

    def _erase_again(self, connection: sa.Connection) -> None:
        shipped = connection.execute(sa.select(erasures.c.person_id, erasures.c.key_id)).all()
        journal = self._journal(ledger_id(connection))
        known = {(row.person_id, row.key_id) for row in shipped}
        for one in journal:
            if (one.person_id, one.key_id) not in known:
                write_down(connection, one.person_id, one.key_id, one.erased_at)
        for person_id, key_id in known | {(one.person_id, one.key_id) for one in journal}:
            self._erased += connection.execute(
                sa.delete(person_keys).where(person_keys.c.person_id == person_id, person_keys.c.key_id == key_id)
            ).rowcount

    def _journal(self, ledger: str) -> Sequence[Erasure]:
        return read_journal(self._keys.journal, self._keys.checkpoint, ledger) if self._keys.journal else ()

    def _begin_incarnation(self, connection: sa.Connection) -> None:
        head = self._heads[-1]
        first = self._first_position(head)
        event = LedgerRestored(
            previous_incarnation=head.until.incarnation,
            restored_seq=head.until.seq,
            reported_seq=max(self._reported, head.until.seq),
            gap_from=head.recorded_at,
            gap_to=UnixTime(math.ceil(self._wall)),
            backup=self._source.name,
            erased_again=self._erased,
        )
        position = Position(secrets.token_hex(8), first)
        self._append(connection, event, position)
        self._restored = position, event

    def _first_position(self, head: Head) -> int:
        return first_position(head.created_at, head.recorded_at, self._wall, (head.until.seq, self._reported))

    def _append(self, connection: sa.Connection, event: LedgerRestored, position: Position) -> None:
        until, bulk = self._heads[-1].until, bulk_for(connection)
        before = LedgerHead(Position(position.incarnation, position.seq - 1), until.hash)
        subject = subject_of(event)
        version = connection.execute(sa.select(subjects.c.version).where(subjects.c.subject == subject)).scalar_one()
        now = UnixTime(int(self._wall))
        admission = Admission(before, {subject: version}, {}, lambda _event, _version: b"", now, self._wall)
        admission.admit(Write((append_of(event, version),)))
        bulk.insert_events(admission.rows)
        bulk.advance(until.seq, admission.head)
        connection.execute(sa.update(ledger_meta).values(incarnation=position.incarnation))
        signed = sign_checkpoint(self._keys.checkpoint, admission.head, now)
        connection.execute(sa.insert(checkpoints).values(**msgspec.structs.asdict(signed)))

    def _check(self, connection: sa.Connection) -> None:
        verdict = verify_within(
            connection, self._keys.checkpoint, progress=lambda done, of: self._progress("verifying", done, of)
        )
        if verdict.fault is not None:
            raise RestoredBroken(
                f"the backup holds no whole ledger under these keys: event {verdict.fault.seq}: {verdict.fault.what}"
            )
        if verdict.events != self._counts.get(events.name, 0) + 1:
            raise RestoredBroken("the backup holds other events than it says")
        self._verdict = verdict


def _refuse_schema(head: Head) -> None:
    if head.revision != migrations.newest():
        raise OtherSchema(
            f"the backup has schema {head.revision}, this program {migrations.newest()}: restore with the program "
            "that made the backup, then start this one"
        )


def _head_at(until: Marks) -> LedgerHead:
    return LedgerHead(Position(until.incarnation, until.seq), until.hash)


def _insert(connection: sa.Connection, rows: Rows, *, is_first: bool) -> None:
    """Into an empty table at once; later segments may bring a row again, and the newer one counts."""
    kept = BY_NAME.get(rows.table)
    if kept is None:
        raise BrokenBackup(f"the backup holds a table that this program does not know: {rows.table}")
    table = kept.table
    if is_first or table is events:
        bulk_for(connection).insert(table, rows.rows)
        return
    insert = (sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert)(table)
    names = table.columns.keys()
    rest = {name: insert.excluded[name] for name in names if not table.columns[name].primary_key}
    key = [column.name for column in table.primary_key.columns]
    statement = (
        insert.on_conflict_do_nothing() if table is checkpoints
        else insert.on_conflict_do_update(index_elements=key, set_=rest)
    )  # fmt: skip
    connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows.rows])


def _refuse_rows(connection: sa.Connection) -> None:
    found = sa.inspect(connection)
    for table in metadata.sorted_tables:
        if found.has_table(table.name) and connection.execute(sa.select(sa.exists(sa.select(table)))).scalar_one():
            raise TargetNotEmpty(f"the database is not empty: its table {table.name} has rows")
