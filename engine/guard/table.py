"""The file under what a guard keeps: SQLite, one table of sealed rows in the order of their hidden keys.

A commit survives kill -9 once it has returned, as it is in the write-ahead log then; a durable one also a loss of
power, as the log has been written through. The table is its own index (WITHOUT ROWID): one walk in order of keys passes
all that a look-up could ever find.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.errors import Fault, Kind
from engine.guard.memory import MemoryFull
from engine.guard.sealing import Place

PAGE_BYTES: Final = 4_096
LOG_BYTES: Final = 8 << 20  # the write-ahead log is cut to this after it has been carried over
RANKS: Final = range(16)
_CACHE_KIB: Final = 16_384
_DAMAGE: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_FORMAT", "SQLITE_SCHEMA"})

_SCHEMA: Final = """
CREATE TABLE clear (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE kept (
    key BLOB PRIMARY KEY, rank INTEGER NOT NULL, due INTEGER NOT NULL, sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX kept_by_due ON kept (rank, due);
"""


class StoreDamaged(Fault):
    """The file is none of ours, or broken: by its own structure, without any key."""

    kind = Kind.BROKEN


class Row(msgspec.Struct, frozen=True):
    """A sealed record and where it stands."""

    place: Place
    sealed: bytes


class Table:
    """One open file, for one process. Raises StoreDamaged for what is broken, MemoryFull for what cannot be written."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open a file that is there. max_bytes: of the file, without its log."""
        self.path = path
        self.max_pages = max(64, max_bytes // PAGE_BYTES)
        with _translated():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._set_up()
        except Fault:
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path, max_bytes: int, clear: dict[str, bytes]) -> "Table":
        """A new, empty file, for its owner alone; `clear` stands in it readable."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # SQLite would let all read
        table = cls(path, max_bytes)
        with _translated():
            table._db.executescript(_SCHEMA)
            table._db.executemany("INSERT INTO clear VALUES (?, ?)", clear.items())
        return table

    def _set_up(self) -> None:
        with _translated():
            for setting in (
                "locking_mode = EXCLUSIVE",  # no shared memory file, nobody else
                "journal_mode = WAL",
                "synchronous = FULL",
                f"max_page_count = {self.max_pages}",
                f"journal_size_limit = {LOG_BYTES}",
                f"cache_size = -{_CACHE_KIB}",
                "cell_size_check = ON",
                "trusted_schema = OFF",
            ):
                self._db.execute(f"PRAGMA {setting}").fetchone()

    def clear(self) -> dict[str, bytes]:
        """What stands in it readable."""
        with _translated():
            return dict(self._db.execute("SELECT name, value FROM clear"))

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All that is written inside, or nothing where it raises."""
        with _translated():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _translated():
                if not self._db.in_transaction:
                    raise MemoryFull("the guard's store cannot be written", detail="the disk is full")
                self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self._db.in_transaction:  # a full disk may have taken all of it back already
                    self._db.execute("ROLLBACK")
            raise

    def read(self, key: bytes) -> Row | None:
        """What stands under a key."""
        with _translated():
            found = self._db.execute("SELECT key, rank, due, sealed FROM kept WHERE key = ?", (key,)).fetchone()
        return None if found is None else _row(found)

    def write(self, row: Row) -> None:
        """Put a row, in place of another under the same key. Within a transaction."""
        place = row.place
        with _translated():
            self._db.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", (place.key, place.rank, place.due, row.sealed)
            )

    def delete(self, key: bytes) -> None:
        """Take a row away. Within a transaction."""
        with _translated():
            self._db.execute("DELETE FROM kept WHERE key = ?", (key,))

    def rows(self) -> Iterator[Row]:
        """All of them, in strictly rising order of their keys."""
        with _translated():
            last = b""
            for found in self._db.execute("SELECT key, rank, due, sealed FROM kept ORDER BY key"):
                row = _row(found)
                if row.place.key <= last:
                    raise StoreDamaged("the store's rows are out of order")
                last = row.place.key
                yield row

    def first(self, rank: int, count: int, *, before: int | None = None) -> list[Row]:
        """Those of a rank that are due first; before: only those due before that."""
        with _translated():
            found = self._db.execute(
                "SELECT key, rank, due, sealed FROM kept WHERE rank = ? AND due < ? ORDER BY due LIMIT ?",
                (rank, (1 << 63) - 1 if before is None else before, count),
            )
            return [_row(one) for one in found]

    def after(self, rank: int, due: int, count: int) -> list[Row]:
        """The next ones of a rank, in the order in which they are due."""
        with _translated():
            found = self._db.execute(
                "SELECT key, rank, due, sealed FROM kept WHERE rank = ? AND due > ? ORDER BY due LIMIT ?",
                (rank, due, count),
            )
            return [_row(one) for one in found]

    def count(self, rank: int) -> int:
        """How many of a rank there are."""
        with _translated():
            return int(self._db.execute("SELECT count(*) FROM kept WHERE rank = ?", (rank,)).fetchone()[0])

    def free_pages(self) -> int:
        """How many more pages it may take."""
        with _translated():
            (used,) = self._db.execute("PRAGMA page_count").fetchone()
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return self.max_pages - int(used) + int(free)

    def close(self) -> None:
        """Carry the log over into the file, where the disk lets it."""
        with suppress(sqlite3.Error):
            self._db.close()


def _row(found: Any) -> Row:  # noqa: ANN401 - sqlite3 has no types for rows
    key, rank, due, sealed = found
    if not (isinstance(key, bytes) and isinstance(sealed, bytes) and isinstance(due, int) and rank in RANKS):
        raise StoreDamaged("a row of the store has another form")
    return Row(Place(key, rank, due), sealed)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError as error:  # closed: a question that outlives its guard, and nothing of the file's
        raise MemoryFull("the guard's store is closed", detail=str(error)) from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(tuple(_DAMAGE)) or not isinstance(error, sqlite3.OperationalError):
            raise StoreDamaged("the guard's store is damaged", detail=f"{name}: {error}") from error
        raise MemoryFull("the guard's store cannot be written", detail=f"{name}: {error}") from error
