"""A receiver's file: one process's, tied to its guard, and moved aside where it cannot be trusted.

It is SQLite. Its tables are exactly those of this release, its head is sealed with the guard's key and holds the mark
that an anchor beside the key knows (`engine.guard.anchor`): a new one is drawn at each start, so that neither another
guard's file nor a copy from before the last start is taken. What fails is moved aside and an empty file begins. That is
safe: where no chain is known, the guard marks events as missing and lists all of them, as a new one does.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.guard.anchor import (
    MARK_BYTES,
    NEVER,
    AnchorLost,
    read_anchor,
    sync_directory,
    write_anchor,
)
from engine.guard.config import Store
from engine.guard.event_rows import (
    Head,
    opened_facts,
    opened_head,
    reseal,
    sealed_facts,
    sealed_head,
    total_of,
)
from engine.guard.home import RolledBack
from engine.guard.sealed_table import OtherKey
from engine.guard.sealing import StoreKey, Unsealed, added
from engine.guard.table import StoreDamaged
from engine.telemetry.logs import logger

USE: Final = "events"  # of the key
KEPT_ASIDE: Final = 2  # files that could not be trusted, the newest
_NO_FILE: Final = bytes(MARK_BYTES)  # the mark of a file that is not there yet
_BESIDE: Final = ("", "-wal", "-shm", "-journal")
_DAMAGE: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")
# While it is opened, by what is asked of every file, and once it was opened for writing, so that no right is missing.
_NO_SUCH_FILE: Final = (*_DAMAGE, "SQLITE_ERROR", "SQLITE_READONLY")

_SCHEMA: Final = (
    """CREATE TABLE events (
    jti TEXT PRIMARY KEY,
    digest BLOB NOT NULL,     -- of the claims, and its tag
    seq INTEGER NOT NULL,     -- 0: it has none
    compact BLOB,             -- sealed; NULL once it was applied
    early INTEGER NOT NULL,   -- may be applied although events before it are missing
    received_at INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX events_unapplied ON events (seq) WHERE compact IS NOT NULL",
    "CREATE INDEX events_unacknowledged ON events (received_at) WHERE acknowledged = 0",
    "CREATE INDEX events_received ON events (received_at)",
    "CREATE TABLE ahead (seq INTEGER PRIMARY KEY, prev INTEGER NOT NULL) STRICT",
    "CREATE TABLE sealed (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
)

_log = logger("guard.events")


class StoreDown(Fault):
    """The file cannot be written or read: nothing was kept, and nothing may be acknowledged."""

    kind = Kind.UNAVAILABLE


class EventSeal(msgspec.Struct, frozen=True):
    """What ties a file to its guard. previous: the key before this one. anchor: a file beside the key."""

    key: StoreKey
    previous: StoreKey | None
    anchor: Path


def seal_of(settings: Store, owner: str) -> EventSeal:
    """owner: the EDP's `client_id`. Raises BadConfig."""
    previous = settings.previous_key_file
    beside = settings.anchor_file or settings.key_file.with_name(settings.key_file.name + ".anchor")
    return EventSeal(
        StoreKey.from_file(settings.key_file, owner, USE),
        None if previous is None else StoreKey.from_file(previous, owner, USE),
        beside.with_name(beside.name + ".events"),
    )


class EventFile:
    """Open from when it is made. wall: seconds since 1970.

    total: the sum over rows as they are now (`engine.guard.event_rows`); whoever changes one within a transaction
    changes it too. anew: how often an empty file took the place of one since this was made.
    """

    def __init__(self, path: Path, seal: EventSeal, wall: Callable[[], UnixTime]) -> None:
        """Raises StoreDown, BadConfig."""
        self.path = path
        self.key = seal.key
        self._seal = seal
        self._wall = wall
        self._anchor = NEVER
        self._damage: tuple[str, ...] = _NO_SUCH_FILE
        self.anew = 0
        self.head = self._written = Head()
        self.total = self._facts_share = 0
        self.facts = b""  # as they are on the disk
        try:
            self._open()
        except (StoreDamaged, Unsealed, AnchorLost) as fault:
            self._begin_anew(fault)
        self._damage = _DAMAGE

    def close(self) -> None:
        """Nothing is lost by leaving this out."""
        self.db.close()

    @property
    def resting_share(self) -> int:
        """The sum, were there no events in it."""
        return self._facts_share

    def all(self, query: str, *values: object) -> list[Any]:
        """Rows. Raises StoreDown, StoreDamaged."""
        with _translated(self.path, "cannot be read", self._damage):
            return self.db.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing, and on the disk at the end. Raises StoreDown, StoreDamaged."""
        before = self.head, self.total, self._facts_share, self.facts
        try:
            with _translated(self.path, "cannot be written", self._damage), self.db:  # commits, or rolls back
                self.db.execute("BEGIN IMMEDIATE")
                yield
                written = self._write_head()
        except BaseException:
            self.head, self.total, self._facts_share, self.facts = before
            raise
        self.head = self._written = written

    def put_facts(self, facts: bytes) -> None:
        """Within a transaction."""
        sealed, share = sealed_facts(self.key, facts)
        self.total = added(self.total, share, self._facts_share)
        self.facts, self._facts_share = facts, share
        self._put("facts", sealed)

    def stand(self, last_seq: int, beyond: int) -> None:
        """Where the chain stands. Within a transaction."""
        self.head = msgspec.structs.replace(self.head, last_seq=last_seq, beyond=beyond)

    def begin_anew(self, fault: Fault) -> None:
        """An empty file in place of one that cannot be trusted, which is moved aside. Raises StoreDown, BadConfig."""
        self.db.close()
        self._begin_anew(fault)

    def _begin_anew(self, fault: Fault) -> None:
        self.anew += 1
        self.head = self._written = Head()
        self.total = self._facts_share = 0
        self.facts = b""
        why = f"{fault.text} {fault.detail}".strip()
        _log.error("guard_events_began_anew", why=why, aside=f"{self.path.name}.aside-*")
        with _files(self.path):
            self._move_aside()
        try:
            self._open_empty()
        except StoreDamaged as worse:
            raise StoreDown("the file of events was damaged, and no other can be made", detail=worse.detail) from worse

    def _open_empty(self) -> None:
        self.db = _connected(self.path)
        try:
            self._fill()
        except BaseException:
            self.db.close()
            raise

    def _open(self) -> None:
        self.db = _connected(self.path)
        try:
            self._open_trusted()
        except BaseException:
            self.db.close()
            raise

    def _open_trusted(self) -> None:
        if self._seal.anchor.exists():
            self._anchor = read_anchor(self._seal.anchor)
        if not (tables := self.all("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")):
            if not self._anchor.knows(_NO_FILE):
                raise StoreDamaged("the file is gone")
            self._fill()
            return
        if len(tables) != len(_SCHEMA) or {sql for (sql,) in tables} != set(_SCHEMA):
            raise StoreDamaged("it is not of this release, and not sealed as its own are")
        self._read()
        self._draw_mark()

    def _fill(self) -> None:
        """The first transaction of a file: until it is over, there is none."""
        self._anchor = self._anchor.towards(mark := os.urandom(MARK_BYTES), _NO_FILE)
        write_anchor(self._seal.anchor, self._anchor)
        with self.transaction():
            for statement in _SCHEMA:
                self.db.execute(statement)
            self._put("key", self.key.check)
            self.put_facts(b"")
            self.head = Head(mark)
        with _files(self.path):
            sync_directory(self.path.parent)
        self._settle()

    def _read(self) -> None:
        check, previous = self._value("key"), self._seal.previous
        if check == self.key.check:
            self._load(self.key)
        elif previous is not None and check == previous.check:
            self._load(previous)
            self._reseal(previous)
        else:
            raise OtherKey("it was sealed with another key, or for another EDP")

    def _load(self, key: StoreKey) -> None:
        head = opened_head(key, self._value("head"))
        if not self._anchor.knows(head.mark):
            raise RolledBack("it is an older copy, or another guard's")
        facts, share = opened_facts(key, self._value("facts"))
        with _translated(self.path, "cannot be read", self._damage):
            total = total_of(self.db, key, share)
        if total != int.from_bytes(head.total, "big"):
            raise Unsealed("events are missing in it, too many, or from another time")
        self.head = self._written = head
        self.facts, self._facts_share, self.total = facts, share, total

    def _reseal(self, previous: StoreKey) -> None:
        with self.transaction():
            self.put_facts(self.facts)
            self.total = reseal(self.db, previous, self.key, self._facts_share)
            self._put("key", self.key.check)
        _log.info("guard_events_rekeyed")

    def _draw_mark(self) -> None:
        """So that every copy made before now is known as old. A crash in between changes nothing."""
        self._anchor = self._anchor.towards(mark := os.urandom(MARK_BYTES), self.head.mark)
        write_anchor(self._seal.anchor, self._anchor)
        with self.transaction():
            self.head = msgspec.structs.replace(self.head, mark=mark)
        self._settle()

    def _settle(self) -> None:
        self._anchor = self._anchor.settled()
        write_anchor(self._seal.anchor, self._anchor)

    def _write_head(self) -> Head:
        head = msgspec.structs.replace(self.head, total=self.total.to_bytes(32, "big"))
        if head != self._written:
            self._put("head", sealed_head(self.key, head))
        return head

    def _put(self, name: str, value: bytes) -> None:
        self.db.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?)", (name, value))

    def _value(self, name: str) -> bytes:
        rows = self.all("SELECT value FROM sealed WHERE name = ?", name)
        if not rows or not isinstance(value := rows[0][0], bytes):
            raise StoreDamaged(f"it has no {name}")
        return value

    def _move_aside(self) -> None:
        """Its log too: no new file shall find a log that is not its own."""
        at = self._wall()
        while (aside := self.path.with_name(f"{self.path.name}.aside-{at}")).exists():
            at = UnixTime(at + 1)
        for end in _BESIDE:
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + end).replace(aside.with_name(aside.name + end))
        kept = [path.name for path in self.path.parent.glob(f"{self.path.name}.aside-*")]
        at_all = {name.partition("aside-")[2].partition("-")[0] for name in kept}
        newest = tuple(f"{self.path.name}.aside-{at}" for at in sorted(at_all)[-KEPT_ASIDE:])
        for name in kept:
            if not name.startswith(newest):
                self.path.with_name(name).unlink(missing_ok=True)


def _connected(path: Path) -> sqlite3.Connection:
    """Private to its owner. Raises StoreDown, StoreDamaged."""
    with _files(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with _translated(path, "cannot be opened", _NO_SUCH_FILE):
        db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    db.text_factory = partial(str, encoding="utf-8", errors="replace")  # what is no text was not sealed here
    try:
        with _translated(path, "cannot be opened", _NO_SUCH_FILE):
            for setting in (
                "locking_mode = EXCLUSIVE",  # how the chain stands is in one process's memory
                "journal_mode = WAL",
                "synchronous = FULL",
                "cell_size_check = ON",
                "trusted_schema = OFF",
            ):
                db.execute(f"PRAGMA {setting}").fetchone()
    except Fault:
        db.close()
        raise
    return db


@contextmanager
def _files(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreDown(f"{path} cannot be opened", detail=str(error)) from error


@contextmanager
def _translated(path: Path, what: str, damage: tuple[str, ...]) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or ""
        if name.startswith(damage):
            raise StoreDamaged(f"{path} is damaged", detail=f"{name}: {error}") from error
        raise StoreDown(f"{path} {what}", detail=str(error)) from error
    except UnicodeDecodeError as error:  # SQLite tells of damage in words that are damaged
        raise StoreDamaged(f"{path} is damaged", detail=str(error)) from error
