"""The statements of one append transaction, each for a whole batch at once.

Row by row, the driver would cost more than hashing and encryption together. PostgreSQL takes events by binary COPY
and looks up by arrays; SQLite takes many rows in one statement and looks up by a JSON array. What follows from the
new events (`subjects`, `feed_records`) the database derives from them itself. Rows come in the order of the tables'
columns in `schema`.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec
import sqlalchemy as sa

from admin.ledger.admission import EventRow, ReceiptRow
from admin.ledger.personal import PersonKey
from admin.ledger.store import Head
from engine.errors import Fault, Kind
from engine.feed.entries import Position

KeyRow = tuple[str, bytes, bytes, int]  # person_id, key_id, wrapped_key, created_at

_POSTGRES_TYPES: Final[dict[type, str]] = {
    sa.BigInteger: "int8",
    sa.Double: "float8",
    sa.LargeBinary: "bytea",
    sa.Text: "text",
}

_json = msgspec.json.Encoder().encode


class NoLedger(Fault):
    """The database holds no ledger yet."""

    kind = Kind.NOT_FOUND


class Bulk(Protocol):
    """What an append transaction asks of the database."""

    def lock_head(self) -> Head:
        """The end of the ledger; until this transaction is over nobody else appends. Raises NoLedger."""

    def versions(self, subjects: Collection[str]) -> dict[str, int]: ...

    def receipts(self, keys: Collection[tuple[str, str]]) -> Sequence[sa.Row[Any]]:
        """Rows of `idempotency` under these (client_id, key)."""

    def person_keys(self, persons: Collection[str]) -> dict[str, PersonKey]: ...

    def insert_events(self, rows: Sequence[EventRow]) -> None: ...

    def insert_receipts(self, rows: Sequence[ReceiptRow]) -> None: ...

    def insert_person_keys(self, rows: Sequence[KeyRow]) -> None: ...

    def insert(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        """Rows of any table, whose keys are not there yet."""

    def advance(self, before: int, head: Head) -> None:
        """Derive what follows from the events above `before`, and move the head."""


def bulk_for(connection: sa.Connection) -> Bulk:
    """The statements for this database."""
    return SqliteBulk(connection) if connection.dialect.name == "sqlite" else PostgresBulk(connection)


class SqliteBulk:
    """SQLite. The transaction began with the write lock held."""

    _CHUNKS: Final = (128, 16, 1)  # rows in one statement: few lengths, so that each is prepared once

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection.exec_driver_sql

    def lock_head(self) -> Head:
        return _head(self._sql("SELECT incarnation, head_seq, head_hash FROM ledger_meta WHERE id = 1").first())

    def versions(self, subjects: Collection[str]) -> dict[str, int]:
        rows = self._sql(
            "SELECT subject, version FROM subjects WHERE subject IN (SELECT value FROM json_each(?))",
            (_json(subjects),),
        )
        return dict(tuple(row) for row in rows)

    def receipts(self, keys: Collection[tuple[str, str]]) -> Sequence[sa.Row[Any]]:
        return self._sql(
            "SELECT i.* FROM json_each(?) AS j JOIN idempotency AS i"
            " ON i.client_id = json_extract(j.value, '$[0]') AND i.key = json_extract(j.value, '$[1]')",
            (_json(keys),),
        ).all()

    def person_keys(self, persons: Collection[str]) -> dict[str, PersonKey]:
        rows = self._sql(
            "SELECT person_id, key_id, wrapped_key FROM person_keys"
            " WHERE person_id IN (SELECT value FROM json_each(?))",
            (_json(persons),),
        )
        return {row[0]: PersonKey(*row) for row in rows}

    def insert_events(self, rows: Sequence[EventRow]) -> None:
        self._insert("INSERT INTO events VALUES ", rows)

    def insert_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        self._insert("INSERT INTO idempotency VALUES ", rows)

    def insert_person_keys(self, rows: Sequence[KeyRow]) -> None:
        self._insert("INSERT INTO person_keys VALUES ", rows)

    def insert(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        self._insert(f"INSERT INTO {table.name} VALUES ", rows)  # noqa: S608 - a name of ours

    def advance(self, before: int, head: Head) -> None:
        self._sql(
            "INSERT INTO subjects (subject, version, seq)"
            " SELECT subject, max(version), max(seq) FROM events WHERE seq > ? GROUP BY subject"
            " ON CONFLICT (subject) DO UPDATE SET version = excluded.version, seq = excluded.seq",
            (before,),
        )
        self._sql(
            "INSERT INTO feed_records (kind, key, seq, record)"
            " SELECT feed_kind, feed_key, max(seq), feed_record FROM events"
            " WHERE seq > ? AND feed_kind IS NOT NULL GROUP BY feed_kind, feed_key"  # bare columns: of max(seq)'s row
            " ON CONFLICT (kind, key) DO UPDATE SET seq = excluded.seq, record = excluded.record",
            (before,),
        )
        self._sql("UPDATE ledger_meta SET head_seq = ?, head_hash = ? WHERE id = 1", (head.position.seq, head.hash))

    def _insert(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        one = "(" + ", ".join("?" * len(rows[0])) + ")" if rows else ""
        for chunk in _chunks(rows, self._CHUNKS):
            values = ", ".join([one] * len(chunk))
            self._sql(statement + values, tuple(value for row in chunk for value in row))


class PostgresBulk:
    """PostgreSQL through psycopg: locking the only row of `ledger_meta` queues the writers of all processes."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection.exec_driver_sql
        self._driver: Any = connection.connection.driver_connection

    def lock_head(self) -> Head:
        return _head(
            self._sql("SELECT incarnation, head_seq, head_hash FROM ledger_meta WHERE id = 1 FOR UPDATE").first()
        )

    def versions(self, subjects: Collection[str]) -> dict[str, int]:
        rows = self._sql("SELECT subject, version FROM subjects WHERE subject = ANY(%s)", (list(subjects),))
        return dict(tuple(row) for row in rows)

    def receipts(self, keys: Collection[tuple[str, str]]) -> Sequence[sa.Row[Any]]:
        clients, names = zip(*keys, strict=True)
        return self._sql(
            "SELECT i.* FROM unnest(%s::text[], %s::text[]) AS j (client_id, key)"
            " JOIN idempotency AS i USING (client_id, key)",
            (list(clients), list(names)),
        ).all()

    def person_keys(self, persons: Collection[str]) -> dict[str, PersonKey]:
        rows = self._sql(
            "SELECT person_id, key_id, wrapped_key FROM person_keys WHERE person_id = ANY(%s)", (list(persons),)
        )
        return {row[0]: PersonKey(*row) for row in rows}

    def insert_events(self, rows: Sequence[EventRow]) -> None:
        types = "int8 text text text int8 int8 bytea text bytea int8 bytea bytea bytea bytea"
        self._copy("events", types, rows)

    def insert_receipts(self, rows: Sequence[ReceiptRow]) -> None:
        self._copy("idempotency", "text text bytea text int8 int8 float8", rows)

    def insert_person_keys(self, rows: Sequence[KeyRow]) -> None:
        self._copy("person_keys", "text bytea bytea int8", rows)

    def insert(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        self._copy(table.name, " ".join(_POSTGRES_TYPES[type(column.type)] for column in table.columns), rows)

    def advance(self, before: int, head: Head) -> None:
        self._sql(
            "INSERT INTO subjects (subject, version, seq)"
            " SELECT DISTINCT ON (subject) subject, version, seq FROM events WHERE seq > %s ORDER BY subject, seq DESC"
            " ON CONFLICT (subject) DO UPDATE SET version = excluded.version, seq = excluded.seq",
            (before,),
        )
        self._sql(
            "INSERT INTO feed_records (kind, key, seq, record)"
            " SELECT DISTINCT ON (feed_kind, feed_key) feed_kind, feed_key, seq, feed_record FROM events"
            " WHERE seq > %s AND feed_kind IS NOT NULL ORDER BY feed_kind, feed_key, seq DESC"
            " ON CONFLICT (kind, key) DO UPDATE SET seq = excluded.seq, record = excluded.record",
            (before,),
        )
        self._sql("UPDATE ledger_meta SET head_seq = %s, head_hash = %s WHERE id = 1", (head.position.seq, head.hash))

    def _copy(self, target: str, types: str, rows: Sequence[Sequence[Any]]) -> None:
        if not rows:
            return
        with self._driver.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(types.split())
            for row in rows:
                copy.write_row(row)


def _head(row: Any) -> Head:  # noqa: ANN401 - rows of textual SQL have no types
    if row is None:
        raise NoLedger("the database holds no ledger")
    return Head(Position(row[0], row[1]), row[2])


def _chunks(rows: Sequence[Sequence[Any]], sizes: Sequence[int]) -> Iterator[Sequence[Sequence[Any]]]:
    at = 0
    for size in sizes:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size
