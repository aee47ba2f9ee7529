"""What can still be read of a damaged evidence log: each row by itself, since each is sealed by itself.

A row that opens is as true as on the day on which it was written, whatever has become of those beside it. It is read
from a copy: the damaged file itself is left as it was found, for people to look at.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from engine.clock import UnixTime
from engine.errors import Fault
from engine.guard.sealed_table import SealedTable, fresh_head
from engine.guard.sealing import Sort, StoreKey, Unsealed
from engine.guard.table import Row, Table

_TOGETHER: Final = 256
_PARTS: Final = ("", "-wal")  # what SQLite reads; the shared memory file is made anew


def readable_rows(damaged: Path, max_bytes: int, keys: Sequence[StoreKey], ranks: Sequence[int]) -> dict[bytes, bytes]:
    """Records by their names, of the ranks that are wanted; none where the file itself cannot be read at all."""
    copy = damaged.with_name(f"reading-{damaged.name}")
    try:
        for part in _PARTS:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(_part(damaged, part), _part(copy, part))
        return dict(_opened(copy, max_bytes, keys, ranks))
    except OSError:  # no room for a copy
        return {}
    finally:
        for part in (*_PARTS, "-shm"):
            _part(copy, part).unlink(missing_ok=True)


def _opened(
    file: Path, max_bytes: int, keys: Sequence[StoreKey], ranks: Sequence[int]
) -> Iterator[tuple[bytes, bytes]]:
    try:
        table = Table(file, max_bytes)
    except Fault:
        return
    tables = [SealedTable(table, key, fresh_head(UnixTime(0), None)) for key in keys]
    try:
        for row in (row for rank in ranks for row in _rows(table, rank)):
            for sealed in tables:
                with contextlib.suppress(Unsealed):
                    _, name, record = sealed.opened(row, Sort.EVIDENCE)
                    yield name, record
    finally:
        table.close()


def _rows(table: Table, rank: int) -> Iterator[Row]:
    """As far as the file's structure leads."""
    due = -1
    with contextlib.suppress(Fault):
        while rows := table.after(rank, due, _TOGETHER):
            yield from rows
            due = rows[-1].place.due


def _part(file: Path, part: str) -> Path:
    return file.with_name(file.name + part)
