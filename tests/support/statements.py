"""What is said to a database, word by word, and how the database goes about it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import event

from admin.ledger.database import Database

_LINE = re.compile(r"(SCAN|SEARCH) (\S+)(?: .*?USING (.+?)(?: \(|$))?")
_MADE_HERE = re.compile(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)")


class Said(msgspec.Struct, frozen=True):
    """One statement, as the driver got it. many: with how many rows of values it was said at once; else 1."""

    words: str
    values: Any
    many: bool

    @property
    def first(self) -> Any:
        """Values for saying it once."""
        return self.values[0] if self.many else self.values


class Access(msgspec.Struct, frozen=True):
    """How a statement comes to rows of a table. way: `SEARCH` or `SCAN`, or the name of PostgreSQL's node."""

    way: str
    by: str  # index, primary key, or nothing

    @property
    def is_whole(self) -> bool:
        """Whether it goes through the whole table."""
        return self.way == "Seq Scan" or (self.way == "SCAN" and "ix_" not in self.by)

    @property
    def is_whole_index(self) -> bool:
        """Whether it goes through all of an index, as who counts must."""
        return self.way == "SCAN" and "ix_" in self.by


@contextmanager
def listening(database: Database) -> Iterator[list[Said]]:
    """Every statement of whoever uses this database within the block, but those that begin and end transactions."""
    heard: list[Said] = []

    def hear(_connection: sa.Connection, _cursor: Any, words: str, values: Any, _context: Any, many: bool) -> None:
        if words.split(maxsplit=1)[0] not in ("BEGIN", "COMMIT", "ROLLBACK"):
            heard.append(Said(words, values, many))

    event.listen(database.engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(database.engine, "before_cursor_execute", hear)


def accesses(connection: sa.Connection, said: Said, table: str, aliases: frozenset[str]) -> list[Access]:
    """How a statement comes to the rows of a table, whatever it calls it. On PostgreSQL it is carried out for that."""
    if connection.dialect.name == "sqlite":
        return _of_sqlite(connection, said, aliases | {table})
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {said.words}"
    (found,) = connection.exec_driver_sql(explain, said.first).scalar_one()
    return list(_of_postgres(found["Plan"], table))


def _of_sqlite(connection: sa.Connection, said: Said, names: frozenset[str]) -> list[Access]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {said.words}", said.first).all()
    lines = [str(row[-1]) for row in rows]
    made_here = {found[1] for line in lines if (found := _MADE_HERE.match(line))}
    matches = [found for line in lines if (found := _LINE.match(line)) and found[2] in names - made_here]
    return [Access(found[1], found[3] or "") for found in matches]


def _of_postgres(plan: dict[str, Any], table: str) -> Iterator[Access]:
    """Nodes that read it; a bitmap's index stands below its heap."""
    if plan.get("Relation Name") == table and plan["Node Type"] != "ModifyTable":
        below = [one.get("Index Name", "") for one in plan.get("Plans", [])]
        yield Access(plan["Node Type"], plan.get("Index Name") or ", ".join(filter(None, below)))
    for one in plan.get("Plans", []):
        yield from _of_postgres(one, table)
