"""What a receiver of events must never forget, in a file of its own: each event before it is acknowledged.

An event, its `jti` and how the chain of numbers stands after it are written in one transaction, and on the disk before
the answer goes out. It is applied to the guard's memory after that, and noted as applied; whatever was not noted is
applied again at the next start, which changes nothing a second time. An applied event leaves its `jti` and a digest
behind for seven days, so that a repeat is known.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.events.verification import VerifiedEvent, read_kept_event
from engine.guard.ordering import Chain, Place

KEEP: Final = 7 * 86_400  # seconds: the service sends nothing again after that
MAX_KEPT: Final = 2_000_000  # applied events remembered by their id: 300 MB; repeats of older ones are known by number

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    jti TEXT PRIMARY KEY,
    digest BLOB NOT NULL,     -- of the claims
    seq INTEGER NOT NULL,     -- 0: it has none
    prev INTEGER NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    compact BLOB,             -- NULL once it was applied
    early INTEGER NOT NULL,   -- may be applied although events before it are missing
    received_at INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_unapplied ON events (seq) WHERE compact IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_unacknowledged ON events (received_at) WHERE acknowledged = 0;
CREATE INDEX IF NOT EXISTS events_received ON events (received_at);
CREATE TABLE IF NOT EXISTS ahead (seq INTEGER PRIMARY KEY, prev INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
"""


class StoreDown(Fault):
    """The file cannot be written or read: nothing was kept, and nothing may be acknowledged."""

    kind = Kind.UNAVAILABLE


class Arrival(msgspec.Struct, frozen=True):
    """A verified event with its bytes. early: do not hold it until it is its turn. polled: poll offers it to us."""

    event: VerifiedEvent
    compact: bytes
    early: bool
    polled: bool = False


class Kept(msgspec.Struct, frozen=True):
    """What became of an arrival. place None: an event came under this `jti` before; is_other: and it was another."""

    place: Place | None
    is_other: bool = False


class StreamIds(msgspec.Struct, frozen=True, array_like=True):
    """The streams that the service has for us; "" = none yet. confirmed: the push stream was seen enabled once."""

    push: str = ""
    poll: str = ""
    poll_url: str = ""
    confirmed: bool = False


class _Facts(msgspec.Struct, frozen=True, array_like=True):
    """Stored: see `StreamIds`. sound_at: when nothing was missing last. states: words asked to be echoed, and when."""

    sound_at: UnixTime | None = None
    keys: bytes = b""
    streams: StreamIds = StreamIds()
    states: tuple[tuple[str, UnixTime], ...] = ()
    incarnation: str = ""  # of the ledger that a listing came from last
    listed_to: int = 0  # and up to where it told all


class EventStore:
    """One receiver's file. Not to be used by two tasks at once; calls take as long as the disk does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = _open(path)
        self._facts = self._read_facts()
        self._chain = self._read_chain()
        self.chain = self._chain.now()  # what others see: never what is not on the disk yet

    def close(self) -> None:
        """Nothing is lost by leaving this out."""
        self._db.close()

    @property
    def keys(self) -> bytes:
        """The event key set as it was last fetched; b"" = never."""
        return self._facts.keys

    @property
    def streams(self) -> StreamIds:
        """See StreamIds."""
        return self._facts.streams

    @property
    def incarnation(self) -> str:
        """Of the ledger that a listing came from last; "" = none came."""
        return self._facts.incarnation

    def is_of_later_ledger(self, incarnation: str, seq: int) -> bool:
        """Whether a position belongs to a ledger that was restored since the last listing.

        Such a ledger goes on above every position that was ever given, so what lies below is a word of before it.
        """
        return self._facts.incarnation not in ("", incarnation) and seq > self._facts.listed_to

    @property
    def sound_at(self) -> UnixTime | None:
        """When nothing was missing last; None: never."""
        return self._facts.sound_at

    def states(self, now: UnixTime) -> frozenset[str]:
        """Words that we asked to have echoed, as long as an echo may come."""
        return frozenset(word for word, at in self._facts.states if now < at + KEEP)

    def keep(self, arrivals: Sequence[Arrival], now: UnixTime) -> list[Kept]:
        """Keep events and advance the chain, in one transaction that is on disk when this returns. Raises StoreDown."""
        with self._advancing():
            return [self._keep_one(arrival, now) for arrival in arrivals]

    def _keep_one(self, arrival: Arrival, now: UnixTime) -> Kept:
        event, digest = arrival.event, _digest(arrival.compact)
        known = self._db.execute("SELECT digest FROM events WHERE jti = ?", (event.jti,)).fetchone()
        if known is not None:
            if arrival.polled and known[0] == digest:  # an acknowledgement, if there was one, is not known there
                self._db.execute("UPDATE events SET acknowledged = 0 WHERE jti = ?", (event.jti,))
            return Kept(None, is_other=known[0] != digest)
        place = self._chain.place(event.seq, event.prev)
        row = (
            event.jti, digest, event.seq, event.prev, event.type, event.subject,
            None if place is Place.OLD and not arrival.early else arrival.compact, arrival.early, now,
            event.last_seq is not None and not arrival.polled,  # a heartbeat is nowhere kept: no poll will bring it
        )  # fmt: skip
        self._db.execute(
            "INSERT INTO events (jti, digest, seq, prev, type, subject, compact, early, received_at, acknowledged)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        self._chain.add(event.seq, event.prev)
        return Kept(place)

    def due(self, limit: int = 1_000) -> list[VerifiedEvent]:
        """Events that are to be applied now, in the order of their numbers. Raises StoreDown."""
        rows = self._all(
            "SELECT compact FROM events WHERE compact IS NOT NULL AND (early OR seq <= ?) ORDER BY seq LIMIT ?",
            self.chain.last_seq,
            limit,
        )
        return [read_kept_event(compact) for (compact,) in rows]

    def applied(self, ids: Iterable[str]) -> None:
        """They have been applied: their bytes are not needed any more. Raises StoreDown."""
        with self._transaction():
            self._db.executemany("UPDATE events SET compact = NULL WHERE jti = ?", [(jti,) for jti in ids])

    def known_to(self, seq: int, incarnation: str) -> None:
        """A listing has told everything up to a position, and it was applied. Raises StoreDown."""
        facts = msgspec.structs.replace(self._facts, incarnation=incarnation, listed_to=seq)
        with self._advancing():
            self._chain.known_to(seq)
            if facts != self._facts:
                self._put("facts", msgspec.msgpack.encode(facts))
        self._facts = facts

    def unacknowledged(self, limit: int) -> list[str]:
        """Ids of events that poll has not been told of, oldest first. Raises StoreDown."""
        rows = self._all("SELECT jti FROM events WHERE acknowledged = 0 ORDER BY received_at LIMIT ?", limit)
        return [jti for (jti,) in rows]

    def acknowledged(self, ids: Iterable[str]) -> None:
        """Poll was told. Raises StoreDown."""
        with self._transaction():
            self._db.executemany("UPDATE events SET acknowledged = 1 WHERE jti = ?", [(jti,) for jti in ids])

    def note(
        self,
        *,
        sound_at: UnixTime | None = None,
        keys: bytes | None = None,
        streams: StreamIds | None = None,
        asked_state: tuple[str, UnixTime] | None = None,
    ) -> None:
        """Remember what is given. Raises StoreDown."""
        facts = self._facts
        states = facts.states
        if asked_state is not None:
            states = (*(kept for kept in states if asked_state[1] < kept[1] + KEEP), asked_state)[-100:]
        noted = _Facts(
            sound_at=facts.sound_at if sound_at is None else sound_at,
            keys=facts.keys if keys is None else keys,
            streams=facts.streams if streams is None else streams,
            states=states,
            incarnation=facts.incarnation,
            listed_to=facts.listed_to,
        )
        with self._transaction():
            self._put("facts", msgspec.msgpack.encode(noted))
        self._facts = noted

    def forget(self, now: UnixTime, limit: int = 1_000) -> int:
        """Drop applied events that are older than a repeat can be, or too many; returns how many. Raises StoreDown."""
        count = (self._one("SELECT count(*) FROM events") or (0,))[0]
        excess = max(0, count - MAX_KEPT)
        with self._transaction():
            done = self._db.execute(
                "DELETE FROM events WHERE jti IN (SELECT jti FROM events WHERE compact IS NULL AND"
                " received_at < ? ORDER BY received_at LIMIT ?)",
                (now - KEEP, limit),
            )
            more = self._db.execute(
                "DELETE FROM events WHERE jti IN (SELECT jti FROM events WHERE compact IS NULL"
                " ORDER BY received_at LIMIT ?)",
                (min(limit, max(0, excess - done.rowcount)),),
            )
        return done.rowcount + more.rowcount

    @contextmanager
    def _advancing(self) -> Iterator[None]:
        """One transaction in which the chain may go on. Raises StoreDown, and then it has not."""
        try:
            with self._transaction():
                yield
                self._write_chain()
        except BaseException:
            self._chain.undo()
            raise
        self._chain.settled()
        self.chain = self._chain.now()

    def _write_chain(self) -> None:
        chain = self._chain
        if chain.last_seq != self.chain.last_seq:
            self._put("last_seq", chain.last_seq)
            self._db.execute("DELETE FROM ahead WHERE seq <= ?", (chain.last_seq,))
        if chain.has_gone_beyond:
            self._put("beyond", chain.beyond)
        self._db.executemany("INSERT OR REPLACE INTO ahead VALUES (?, ?)", chain.newly_ahead)

    def _read_chain(self) -> Chain:
        query = "SELECT value FROM facts WHERE name = ?"
        last_seq, beyond = self._one(query, "last_seq"), self._one(query, "beyond")
        ahead: list[tuple[int, int]] = self._all("SELECT seq, prev FROM ahead")
        return Chain(int(last_seq[0]) if last_seq else 0, dict(ahead), int(beyond[0]) if beyond else 0)

    def _put(self, name: str, value: bytes | int) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _read_facts(self) -> _Facts:
        row = self._one("SELECT value FROM facts WHERE name = 'facts'")
        try:
            return _Facts() if row is None else msgspec.msgpack.decode(row[0], type=_Facts)
        except msgspec.MsgspecError as error:
            raise StoreDown(f"{self._path}: not a file of a receiver's", detail=str(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing, and on the disk at the end. Raises StoreDown."""
        try:
            with self._db:  # commits, or rolls back
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise StoreDown(f"{self._path} cannot be written", detail=str(error)) from error

    def _all(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreDown(f"{self._path} cannot be read", detail=str(error)) from error

    def _one(self, query: str, *values: object) -> Any:  # noqa: ANN401 - a row of SQLite's
        rows = self._all(query, *values)
        return rows[0] if rows else None


def _open(path: Path) -> sqlite3.Connection:
    """Private to its owner. Raises StoreDown."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # how the chain stands is in one process's memory
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_SCHEMA)
    except (OSError, sqlite3.Error) as error:
        raise StoreDown(f"{path} cannot be opened", detail=str(error)) from error
    return db


def _digest(compact: bytes) -> bytes:
    """Of the claims. Not of header and signature: of the same claims there may be many, by several keys."""
    return hashlib.sha256(compact.split(b".")[1]).digest()
