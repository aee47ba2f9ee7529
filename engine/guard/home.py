"""Where a guard's store lives: one process at a time, its anchor, and what becomes of a store that cannot be trusted.

A store that is damaged, incomplete, or went back in time is moved aside and an empty one begins. An empty one is safe:
no answer that rests on a truth from before it is ever taken into it (`Head.floor`), so no end that was lost is missed.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.clock import UnixTime
from engine.config import BadConfig
from engine.errors import Fault, Kind
from engine.guard.anchor import MARK_BYTES, NEVER, AnchorLost, read_anchor, sync_directory, write_anchor
from engine.guard.sealed_table import OtherKey, SealedTable, clear_words, fresh_head
from engine.guard.sealing import Sort, StoreKey, Unsealed
from engine.guard.table import StoreDamaged, Table
from engine.telemetry.logs import logger

FILE: Final = "memory.db"
CLOCK_ERROR: Final = 60  # seconds by which this machine's clock may be behind the service's
KEPT_ASIDE: Final = 2
_BESIDE: Final = ("", "-wal", "-shm")
_REKEYED: Final = "rekeyed.db"

_log = logger("guard.store")


class StoreInUse(Fault):
    """Another process has the store open."""

    kind = Kind.CONFLICT


class RolledBack(StoreDamaged):
    """The store is an older copy of itself, or nothing shows that it is not."""


class StoreLock:
    """The sole right to a directory; ends with `release` or with the process."""

    def __init__(self, directory: Path) -> None:
        """Make the directory if need be. Raises StoreInUse, BadConfig."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadConfig(f"{directory}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise StoreInUse(f"{directory} is already in use by another process") from error

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)


class StoreHome:
    """One directory, locked. wall: seconds since 1970."""

    def __init__(self, directory: Path, anchor: Path, max_bytes: int, wall: Callable[[], UnixTime]) -> None:
        """Raises StoreInUse, BadConfig."""
        self._lock = StoreLock(directory)
        self._file = directory / FILE
        self._anchor_file = anchor
        self._anchor = NEVER
        self._max_bytes = max_bytes
        self._wall = wall

    def open(self, key: StoreKey, previous: StoreKey | None = None) -> SealedTable:
        """The store as it was left, or an empty one where that cannot be trusted. previous: the key before this one.

        Raises OtherKey, BadConfig, MemoryFull.
        """
        with _translated(self._file):
            for end in _BESIDE:
                self._file.with_name(_REKEYED + end).unlink(missing_ok=True)
            try:
                self._anchor = read_anchor(self._anchor_file)
            except AnchorLost as fault:
                if self._file.exists():
                    return self.begin_anew(key, None, f"{fault.text} {fault.detail}".strip())
                return self._create(key)
            if not self._file.exists():
                return self.begin_anew(key, None, "the store is gone")
            try:
                return self._open_trusted(key, previous)
            except OtherKey:
                raise
            except (StoreDamaged, Unsealed) as fault:
                return self.begin_anew(key, None, f"{fault.text} {fault.detail}".strip())

    def _open_trusted(self, key: StoreKey, previous: StoreKey | None) -> SealedTable:
        table = Table(self._file, self._max_bytes)
        try:
            try:
                sealed = SealedTable.open(table, key)
            except OtherKey:
                if previous is None:
                    raise
                sealed = self._rekey(SealedTable.open(table, previous), key)
                table = sealed.table
            if not self._anchor.knows(sealed.head.mark):
                raise RolledBack("the store went back in time")
            self.mark(sealed)
        except BaseException:
            table.close()
            raise
        return sealed

    def _create(self, key: StoreKey) -> SealedTable:
        self._move_aside()
        now = self._wall()
        head = fresh_head(UnixTime(now + CLOCK_ERROR), now)
        self._anchor = self._anchor.towards(head.mark, None)
        write_anchor(self._anchor_file, self._anchor)
        table = Table.create(self._file, self._max_bytes, clear_words(key))
        sync_directory(self._file.parent)
        return SealedTable.create(table, key, head)

    def begin_anew(self, key: StoreKey, broken: SealedTable | None, why: str) -> SealedTable:
        """An empty store in place of one that cannot be trusted, which is moved aside. Said loudly."""
        if broken is not None:
            broken.table.close()
        _log.error("guard_store_began_anew", why=why, aside=f"{FILE}.aside-*")
        with _translated(self._file):
            return self._create(key)

    def mark(self, sealed: SealedTable) -> None:
        """Draw a new mark, so that every copy made before now is known as old. Raises BadConfig, MemoryFull."""
        mark = os.urandom(MARK_BYTES)
        towards = self._anchor.towards(mark, sealed.head.mark)
        write_anchor(self._anchor_file, towards)
        self._anchor = towards
        with sealed.writing(durable=True):
            sealed.set_head(mark=mark)
        settled = towards.settled()
        write_anchor(self._anchor_file, settled)
        self._anchor = settled

    def release(self) -> None:
        """Let the next process in."""
        self._lock.release()

    def _rekey(self, old: SealedTable, key: StoreKey) -> SealedTable:
        """All of it under another key, in a file of its own that then takes the place of the old one."""
        path = self._file.with_name(_REKEYED)
        if not self._anchor.knows(old.head.mark):
            raise RolledBack("the store went back in time")
        table = Table.create(path, self._max_bytes, clear_words(key))
        head = fresh_head(old.head.floor, old.head.missing_since)
        new = SealedTable.create(table, key, head)
        with new.writing(durable=True):
            new.set_head(latest_use=old.head.latest_use)
            for row in old.table.rows():
                if row.place.key != old.key.hidden(Sort.HEAD, b"head"):
                    sort, name, record = old.opened(row, Sort.TOKEN, Sort.CONSENT, Sort.PARTY)
                    new.put(sort, name, record, rank=row.place.rank, due=row.place.due)
        old.table.close()
        new.table.close()
        towards = self._anchor.towards(head.mark, old.head.mark)
        write_anchor(self._anchor_file, towards)
        self._anchor = towards
        path.replace(self._file)
        sync_directory(self._file.parent)
        _log.info("guard_store_rekeyed")
        return SealedTable.open(Table(self._file, self._max_bytes), key)

    def _move_aside(self) -> None:
        """Whatever is left of a store, its log included: SQLite would take that log for the new file's."""
        name = f"{FILE}.aside-{self._wall()}"
        for end in _BESIDE:
            source = self._file.with_name(FILE + end)
            if source.exists():
                source.replace(source.with_name(name + end))
        kept = {path.name.removesuffix("-wal").removesuffix("-shm"): path for path in self._aside()}
        for path in self._aside():
            if not path.name.startswith(tuple(sorted(kept)[-KEPT_ASIDE:])):
                path.unlink(missing_ok=True)

    def _aside(self) -> list[Path]:
        return sorted(self._file.parent.glob(f"{FILE}.aside-*"))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
