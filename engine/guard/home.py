"""Where a guard's store lives: one process at a time, its anchor, and what becomes of a store that cannot be trusted.

A store that is damaged, incomplete, or went back in time is moved aside and an empty one begins. An empty one is safe:
no answer that rests on a truth from before it is ever taken into it (`Head.floor`), so no end that was lost is missed.
Nor is a share made on a node's `last_known` answer from before it (`Head.lost_until`).
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.config import BadConfig
from engine.errors import Fault, Kind
from engine.guard.anchor import MARK_BYTES, NEVER, AnchorLost, read_anchor, sync_directory, write_anchor
from engine.guard.sealed_table import HEAD_NAME, OtherKey, SealedTable, clear_words, fresh_head
from engine.guard.sealing import Sort, StoreKey, Unsealed
from engine.guard.table import StoreDamaged, Table
from engine.telemetry.logs import logger

CLOCK_ERROR: Final = 60  # seconds by which this machine's clock may be behind the service's
_BESIDE: Final = ("", "-wal", "-shm")

_log = logger("guard.store")


class StoreInUse(Fault):
    """Another process has the store open."""

    kind = Kind.CONFLICT


class RolledBack(StoreDamaged):
    """The store is an older copy of itself, or nothing shows that it is not."""


class StoreLock:
    """The sole right to a directory; ends with `release` or with the process."""

    def __init__(self, path: Path) -> None:
        """path: of a file that exists for the lock alone; its directory is made. Raises StoreInUse, BadConfig."""
        directory = path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


class Habits(msgspec.Struct, frozen=True):
    """How a store is kept. sorts: of its rows."""

    sorts: tuple[Sort, ...]
    max_bytes: int
    takes_older: bool = False  # evidence that went back in time is evidence still, where a memory would be wrong
    kept_aside: int | None = 2  # broken files that are not thrown away; None: all


class StoreHome:
    """One file, locked, and its anchor. wall: seconds since 1970."""

    def __init__(self, file: Path, anchor: Path, habits: Habits, wall: Callable[[], UnixTime]) -> None:
        """Raises StoreInUse, BadConfig."""
        self._lock = StoreLock(file.with_suffix(".lock"))
        self._file = file
        self._rekeyed = file.with_name(f"rekeyed-{file.name}")
        self._anchor_file = anchor
        self._anchor = NEVER
        self._habits = habits
        self._wall = wall
        self.went_back = False  # an older copy was taken
        self.aside: Path | None = None  # where the file is that could not be trusted, if one was moved aside

    def open(self, key: StoreKey, previous: StoreKey | None = None) -> SealedTable:
        """The store as it was left, or an empty one where that cannot be trusted. previous: the key before this one.

        Raises OtherKey, BadConfig, MemoryFull.
        """
        with _translated(self._file):
            for end in _BESIDE:
                self._rekeyed.with_name(self._rekeyed.name + end).unlink(missing_ok=True)
            try:
                self._anchor = read_anchor(self._anchor_file)
            except AnchorLost as fault:
                if not self._file.exists():
                    return self._create(key)
                if not self._habits.takes_older:
                    return self.begin_anew(key, None, f"{fault.text} {fault.detail}".strip())
            if not self._file.exists():
                return self.begin_anew(key, None, "the store is gone")
            try:
                return self._open_trusted(key, previous)
            except OtherKey:
                raise
            except (StoreDamaged, Unsealed) as fault:
                return self.begin_anew(key, None, f"{fault.text} {fault.detail}".strip())

    def _open_trusted(self, key: StoreKey, previous: StoreKey | None) -> SealedTable:
        table = Table(self._file, self._habits.max_bytes)
        try:
            try:
                sealed = SealedTable.open(table, key)
            except OtherKey:
                if previous is None:
                    raise
                sealed = self._rekey(SealedTable.open(table, previous), key)
                table = sealed.table
            self._check_mark(sealed)
            self.mark(sealed)
        except BaseException:
            table.close()
            raise
        return sealed

    def _check_mark(self, sealed: SealedTable) -> None:
        if self._anchor.knows(sealed.head.mark):
            return
        if not self._habits.takes_older:
            raise RolledBack("the store went back in time")
        self.went_back = True
        _log.error("guard_store_went_back", file=self._file.name)

    def _create(self, key: StoreKey, *, has_lost: bool = False) -> SealedTable:
        """has_lost: one before it may have held words that nobody says again."""
        self._move_aside()
        now = self._wall()
        floor = UnixTime(now + CLOCK_ERROR)
        head = fresh_head(floor, now)
        if has_lost:
            head = msgspec.structs.replace(head, lost_until=floor)
        self._anchor = self._anchor.towards(head.mark, None)
        write_anchor(self._anchor_file, self._anchor)
        table = Table.create(self._file, self._habits.max_bytes, clear_words(key))
        sync_directory(self._file.parent)
        return SealedTable.create(table, key, head)

    def begin_anew(self, key: StoreKey, broken: SealedTable | None, why: str) -> SealedTable:
        """An empty store in place of one that cannot be trusted, which is moved aside. Said loudly."""
        if broken is not None:
            broken.table.close()
        _log.error("guard_store_began_anew", why=why, aside=f"{self._file.name}.aside-*")
        with _translated(self._file):
            return self._create(key, has_lost=True)

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
        self._check_mark(old)
        table = Table.create(self._rekeyed, self._habits.max_bytes, clear_words(key))
        head = msgspec.structs.replace(old.head, mark=os.urandom(MARK_BYTES), total=bytes(32))
        new = SealedTable.create(table, key, head)
        with new.writing(durable=True):
            for row in old.table.rows():
                if row.place.key != old.key.hidden(Sort.HEAD, HEAD_NAME):
                    sort, name, record = old.opened(row, *self._habits.sorts)
                    new.put(sort, name, record, rank=row.place.rank, due=row.place.due)
        old.table.close()
        new.table.close()
        towards = self._anchor.towards(head.mark, old.head.mark)
        write_anchor(self._anchor_file, towards)
        self._anchor = towards
        self._rekeyed.replace(self._file)
        sync_directory(self._file.parent)
        _log.info("guard_store_rekeyed")
        return SealedTable.open(Table(self._file, self._habits.max_bytes), key)

    def _move_aside(self) -> None:
        """Whatever is left of a store, its log included: no new file shall find a log that is not its own."""
        name = f"{self._file.name}.aside-{self._wall()}"
        for end in _BESIDE:
            source = self._file.with_name(self._file.name + end)
            if source.exists():
                source.replace(source.with_name(name + end))
                self.aside = self._file.with_name(name)
        if self._habits.kept_aside is None:
            return
        kept = {path.name.removesuffix("-wal").removesuffix("-shm"): path for path in self._aside()}
        for path in self._aside():
            if not path.name.startswith(tuple(sorted(kept)[-self._habits.kept_aside :])):
                path.unlink(missing_ok=True)

    def _aside(self) -> list[Path]:
        return sorted(self._file.parent.glob(f"{self._file.name}.aside-*"))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
