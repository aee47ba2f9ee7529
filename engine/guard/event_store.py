"""What a receiver of events must never forget, in a file of its own: each event before it is acknowledged.

An event, its `jti` and how the chain of numbers stands after it are written in one transaction, and on the disk before
the answer goes out. It is applied to the guard's memory after that, and noted as applied; whatever was not noted is
applied again at the next start, which changes nothing a second time. An applied event leaves its `jti` and a digest
behind for seven days, so that a repeat is known.

Nobody without the guard's key can make an event go missing in it unseen, or move the chain on: see
`engine.guard.event_rows`, and `docs/decisions/0036-a-sealed-file-of-events.md`. A file that is found damaged while it
is used is moved aside and an empty one begins (`anew`); what was being done then is refused (StoreDown).
"""

import functools
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec

from engine.clock import UnixTime
from engine.config import BadConfig
from engine.events.verification import VerifiedEvent, read_kept_event
from engine.guard.event_file import EventFile, EventSeal, StoreDown
from engine.guard.event_rows import ahead_share, event_share, opened_event, sealed_event, tagged, untagged
from engine.guard.ordering import Chain, Place
from engine.guard.sealing import Unsealed, added
from engine.guard.table import StoreDamaged

P = ParamSpec("P")
T = TypeVar("T")

KEEP: Final = 7 * 86_400  # seconds: the service sends nothing again after that
MAX_KEPT: Final = 2_000_000  # applied events remembered by their id: 300 MB; repeats of older ones are known by number


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


def _trusting(call: Callable[Concatenate["EventStore", P], T]) -> Callable[Concatenate["EventStore", P], T]:
    """What turns out not to be what was kept ends the file: an empty one begins. Raises StoreDown then."""

    @functools.wraps(call)
    def trusting(store: "EventStore", /, *args: P.args, **named: P.kwargs) -> T:
        try:
            return call(store, *args, **named)
        except (StoreDamaged, Unsealed) as fault:
            store._begin_anew(fault)
            raise StoreDown("the file of events was damaged: an empty one has begun") from fault

    return trusting


class EventStore:
    """One receiver's file. Not to be used by two tasks at once; calls take as long as the disk does."""

    def __init__(self, path: Path, seal: EventSeal, wall: Callable[[], UnixTime]) -> None:
        """wall: seconds since 1970. Raises StoreDown, BadConfig."""
        self._file = EventFile(path, seal, wall)
        self._key = self._file.key
        try:
            self._facts = self._read_facts()
            self._chain = self._read_chain()
            self.chain = self._chain.now()  # what others see: never what is not on the disk yet
        except StoreDamaged as fault:
            self._begin_anew(fault)

    def close(self) -> None:
        """Nothing is lost by leaving this out."""
        self._file.close()

    @property
    def anew(self) -> int:
        """How often an empty file has taken the place of one that could not be trusted, since this was made."""
        return self._file.anew

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

    @_trusting
    def keep(self, arrivals: Sequence[Arrival], now: UnixTime) -> list[Kept]:
        """Keep events and advance the chain, in one transaction that is on disk when this returns. Raises StoreDown."""
        with self._advancing():
            return [self._keep_one(arrival, now) for arrival in arrivals]

    def _keep_one(self, arrival: Arrival, now: UnixTime) -> Kept:
        event, digest = arrival.event, _digest(arrival.compact)
        known = self._execute("SELECT digest FROM events WHERE jti = ?", event.jti).fetchone()
        if known is not None:
            is_other = untagged(self._key, event.jti, known[0]) != digest
            if arrival.polled and not is_other:  # an acknowledgement, if there was one, is not known there
                self._execute("UPDATE events SET acknowledged = 0 WHERE jti = ?", event.jti)
            return Kept(None, is_other=is_other)
        place = self._chain.place(event.seq, event.prev)
        self._execute(
            "INSERT INTO events (jti, digest, seq, compact, early, received_at, acknowledged)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            event.jti,
            tagged(self._key, event.jti, digest),
            event.seq,
            None if place is Place.OLD and not arrival.early else self._sealed(arrival),
            arrival.early,
            now,
            event.last_seq is not None and not arrival.polled,  # a heartbeat is nowhere kept: no poll will bring it
        )
        self._chain.add(event.seq, event.prev)
        return Kept(place)

    def _sealed(self, arrival: Arrival) -> bytes:
        event = arrival.event
        sealed, share = sealed_event(self._key, event.jti, event.seq, arrival.compact, early=arrival.early)
        self._file.total = added(self._file.total, share)
        return sealed

    @_trusting
    def due(self, limit: int = 1_000) -> list[VerifiedEvent]:
        """Events that are to be applied now, in the order of their numbers. Raises StoreDown."""
        rows = self._file.all(
            "SELECT jti, seq, early, compact FROM events INDEXED BY events_unapplied"
            " WHERE compact IS NOT NULL AND (early OR seq <= ?) ORDER BY seq LIMIT ?",
            self.chain.last_seq,
            limit,
        )
        found, total = [], self._file.resting_share
        for row in rows:
            compact, share = opened_event(self._key, row)
            total = added(total, share)
            found.append(read_kept_event(compact))
        if len(rows) < limit and not self.chain.has_hole and total != self._file.total:  # these are all there are
            raise Unsealed("events that were to be applied are missing, or too many")
        return found

    @_trusting
    def applied(self, ids: Iterable[str]) -> None:
        """They have been applied: their bytes are not needed any more. Raises StoreDown."""
        with self._file.transaction():
            for jti in ids:
                row = self._execute(
                    "SELECT jti, seq, early, compact FROM events WHERE jti = ? AND compact IS NOT NULL", jti
                ).fetchone()
                if row is not None:
                    self._file.total = added(self._file.total, 0, event_share(self._key, row))
                    self._execute("UPDATE events SET compact = NULL WHERE jti = ?", jti)

    @_trusting
    def known_to(self, seq: int, incarnation: str, anew: int | None = None) -> None:
        """A listing has told everything up to a position, and it was applied. Raises StoreDown.

        anew: as it was when the listing was asked for, which began where the chain of that file stood.
        """
        if anew not in (None, self.anew):
            raise StoreDown("the file of events began anew while it was listed")
        facts = msgspec.structs.replace(self._facts, incarnation=incarnation, listed_to=seq)
        with self._advancing():
            self._chain.known_to(seq)
            if facts != self._facts:
                self._file.put_facts(msgspec.msgpack.encode(facts))
        self._facts = facts

    @_trusting
    def unacknowledged(self, limit: int) -> list[str]:
        """Ids of events that poll has not been told of, oldest first. Raises StoreDown."""
        rows = self._file.all(
            "SELECT jti, digest FROM events WHERE acknowledged = 0 ORDER BY received_at LIMIT ?", limit
        )
        for jti, digest in rows:
            untagged(self._key, jti, digest)  # nothing is acknowledged that did not come
        return [jti for jti, _ in rows]

    @_trusting
    def acknowledged(self, ids: Iterable[str]) -> None:
        """Poll was told. Raises StoreDown."""
        with self._file.transaction():
            self._file.db.executemany("UPDATE events SET acknowledged = 1 WHERE jti = ?", [(jti,) for jti in ids])

    @_trusting
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
        with self._file.transaction():
            self._file.put_facts(msgspec.msgpack.encode(noted))
        self._facts = noted

    @_trusting
    def forget(self, now: UnixTime, limit: int = 1_000) -> int:
        """Drop applied events that are older than a repeat can be, or too many; returns how many. Raises StoreDown."""
        count = (self._one("SELECT count(*) FROM events") or (0,))[0]
        excess = max(0, count - MAX_KEPT)
        with self._file.transaction():
            done = self._execute(
                "DELETE FROM events WHERE jti IN (SELECT jti FROM events WHERE compact IS NULL AND"
                " received_at < ? ORDER BY received_at LIMIT ?)",
                now - KEEP,
                limit,
            )
            more = self._execute(
                "DELETE FROM events WHERE jti IN (SELECT jti FROM events WHERE compact IS NULL"
                " ORDER BY received_at LIMIT ?)",
                min(limit, max(0, excess - done.rowcount)),
            )
        return done.rowcount + more.rowcount

    @contextmanager
    def _advancing(self) -> Iterator[None]:
        """One transaction in which the chain may go on. Raises StoreDown, and then it has not."""
        try:
            with self._file.transaction():
                yield
                self._write_chain()
        except BaseException:
            self._chain.undo()
            raise
        self._chain.settled()
        self.chain = self._chain.now()

    def _write_chain(self) -> None:
        chain, file = self._chain, self._file
        if chain.last_seq != self.chain.last_seq:
            self._execute("DELETE FROM ahead WHERE seq <= ?", chain.last_seq)
        for seq, prev in chain.no_longer_ahead:
            file.total = added(file.total, 0, ahead_share(self._key, seq, prev))
        for seq, prev in chain.newly_ahead:
            self._execute("INSERT OR REPLACE INTO ahead VALUES (?, ?)", seq, prev)
            file.total = added(file.total, ahead_share(self._key, seq, prev))
        file.stand(chain.last_seq, chain.beyond)

    def _read_chain(self) -> Chain:
        ahead: list[tuple[int, int]] = self._file.all("SELECT seq, prev FROM ahead")
        return Chain(self._file.head.last_seq, dict(ahead), self._file.head.beyond)

    def _read_facts(self) -> _Facts:
        facts = self._file.facts
        try:
            return msgspec.msgpack.decode(facts, type=_Facts) if facts else _Facts()
        except msgspec.MsgspecError as error:
            raise StoreDamaged("the facts in the file of events have another form") from error

    def _begin_anew(self, fault: StoreDamaged | Unsealed) -> None:
        """What was known is forgotten first: should no file come of it, nothing rests on the old one either."""
        self._facts, self._chain = _Facts(), Chain()
        self.chain = self._chain.now()
        try:
            self._file.begin_anew(fault)
        except BadConfig as bad:
            raise StoreDown(bad.text, detail=bad.detail) from bad

    def _execute(self, query: str, *values: object) -> sqlite3.Cursor:
        """Within a transaction, which tells what sqlite3 raises."""
        return self._file.db.execute(query, values)

    def _one(self, query: str, *values: object) -> Any:  # noqa: ANN401 - a row of SQLite's
        rows = self._file.all(query, *values)
        return rows[0] if rows else None


def _digest(compact: bytes) -> bytes:
    """Of the claims. Not of header and signature: of the same claims there may be many, by several keys."""
    return hashlib.sha256(compact.split(b".")[1]).digest()
