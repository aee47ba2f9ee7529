"""The ledger's database: a real one in memory, reached over a wire, and what was true in it at which moment."""

import sqlite3
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar, cast
from unittest import mock

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger.backup import filling as fillings
from admin.ledger.backup.filling import Filling, Keys, Source
from admin.ledger.backup.taking import read_head_of_segment
from admin.ledger.database import Database, Work
from admin.ledger.sql import SqlLedger
from admin.ledger.store import FeedRecord, LedgerUnavailable, StoredEvent
from engine.clock import UnixTime
from engine.consent.records import LIVE_KEY, ConsentKey, ConsentRecord
from engine.consent.states import State
from engine.feed.entries import EntryKind, Position
from tests.world.simulation.template import Template
from tests.world.simulation.wires import Lost, Wire

T = TypeVar("T")

WORDS = (int(EntryKind.CONSENT), int(EntryKind.RECOVERY))  # what a history is made of

_records = msgspec.msgpack.Decoder(ConsentRecord)


class Recovering:
    """An incarnation that began with a restore. live_seq, live_at: where and when it went live; None = not yet."""

    def __init__(self, gap_from: UnixTime) -> None:
        self.gap_from = gap_from
        self.live_seq: int | None = None
        self.live_at = 0.0


class History:
    """What the ledger has said of each consent, by incarnation and position, and since when it says no."""

    def __init__(self) -> None:
        self.position = Position("", 0)
        self.highest = 0  # ever
        self._begun = 0  # position at which the incarnation began
        self.ended_since: dict[ConsentKey, float] = {}  # by the ledger as it stands
        self.recoveries: dict[str, Recovering] = {}  # by the incarnation that began with one
        self._said: dict[str, dict[ConsentKey, list[tuple[int, State, str]]]] = {}  # (seq, state, tag)

    @property
    def recovering(self) -> Recovering | None:
        """The recovery under way."""
        found = self.recoveries.get(self.position.incarnation)
        return found if found is not None and found.live_seq is None else None

    def take(self, position: Position, rows: list[tuple[int, int, bytes, bytes, str]], now: float) -> None:
        """New events of consents and recoveries up to a position: (seq, kind, key, record, tag)."""
        said = self._said.setdefault(position.incarnation, {})
        recovery = self.recoveries.get(position.incarnation)
        for seq, kind, key, record, tag in rows:
            if kind == EntryKind.RECOVERY:
                if key == LIVE_KEY and recovery is not None and seq > self._begun:
                    recovery.live_seq, recovery.live_at = seq, now
                continue
            state = _records.decode(record).state
            said.setdefault(ConsentKey(key), []).append((seq, state, tag))
            if state is State.ACTIVE:
                self.ended_since.pop(ConsentKey(key), None)
            else:
                self.ended_since.setdefault(ConsentKey(key), now)
        self.position, self.highest = position, max(self.highest, position.seq)

    def begin(self, incarnation: str, now: float, *, begun: int, gap_from: UnixTime | None) -> None:
        """The ledger was replaced; what it says is told anew by `take`. What it has lost, it says no to.

        begun: its first position. gap_from: None = it does not know that it was restored.
        """
        self._begun = begun
        if gap_from is not None:
            self.recoveries[incarnation] = Recovering(gap_from)
        known = self._said.get(self.position.incarnation, {})
        self._said[incarnation] = {}
        self.ended_since = {key: self.ended_since.get(key, now) for key in known}

    def state(self, key: ConsentKey) -> State | None:
        """As the ledger stands."""
        said = self._said[self.position.incarnation].get(key)
        return said[-1][1] if said else None

    def has(self, key: ConsentKey, seq: int) -> bool:
        """Whether an event of this consent stands at a position."""
        return any(at == seq for at, _, _ in self._said[self.position.incarnation].get(key, ()))

    def ended_at(self, key: ConsentKey) -> int | None:
        """The position that ended a consent, in the ledger as it stands."""
        said = self._said[self.position.incarnation].get(key, [])
        return next((seq for seq, state, _ in said if state is not State.ACTIVE), None)

    def was_active(self, incarnation: str, key: ConsentKey, applied: int) -> bool:
        """Whether the ledger of this incarnation called it active at a position from `applied` on."""
        said = self._said.get(incarnation, {}).get(key, [])
        at = bisect_right(said, applied, key=lambda item: item[0])
        return any(state is State.ACTIVE for _, state, _ in said[max(0, at - 1) :])

    def known(self) -> list[ConsentKey]:
        """All consents of the ledger as it stands."""
        return list(self._said[self.position.incarnation])


class Store:
    """The database server. at_live: told when a restored ledger has gone live."""

    def __init__(self, made: Template, history: History, now: Callable[[], float]) -> None:
        self.made, self.history, self._now = made, history, now
        self.engine = made.engine
        self.at_live: Callable[[], None] = lambda: None
        self._known = 0
        self.leaving: dict[str, float] = {}  # instances that are struck off, since when
        self.admitted: dict[str, Position] = {}  # where the ledger stood when they were admitted
        self.changes = 0  # transactions that wrote
        self.images: list[sqlite3.Connection] = []
        self.look()

    def look(self, *, replaced: bool = False, gap_from: UnixTime | None = None) -> None:
        """Note what was committed. gap_from: the ledger was restored just now, and knows all that was before."""
        execute = self.made.connection.execute
        instances = execute("SELECT instance, state FROM instances").fetchall()
        leaving = [name for name, state in instances if state == "leaving"]
        self.leaving = {name: self.leaving.get(name, self._now()) for name in leaving}
        self.admitted = {name: self.admitted.get(name, self.history.position) for name, _ in instances}
        incarnation, seq = execute("SELECT incarnation, head_seq FROM ledger_meta").fetchone()
        if Position(incarnation, seq) == self.history.position and not replaced:
            return
        if replaced or incarnation != self.history.position.incarnation:
            self.history.begin(incarnation, self._now(), begun=seq, gap_from=gap_from)
            self._known = 0
        was_recovering = self.history.recovering is not None
        rows = execute(
            "SELECT seq, feed_kind, feed_key, feed_record, tag FROM events "
            "WHERE seq > ? AND feed_kind IN (?, ?) ORDER BY seq",
            (self._known, *WORDS),
        ).fetchall()
        self._known = seq
        self.history.take(Position(incarnation, seq), rows, self._now())
        if was_recovering and not replaced and self.history.recovering is None:
            self.at_live()

    def keep(self) -> None:
        """A backup."""
        self.images.append(self.made.copy())
        if len(self.images) > 5:
            self.images.pop(0).close()

    def restore(self, image: sqlite3.Connection, *, wall: float, new_incarnation: bool = True) -> None:
        """Go on from a backup, as the restore of operators does it. wall: now, seconds since 1970."""
        self.changes += 1
        self.made.go_back(image)
        gap_from = None
        if new_incarnation:
            with self.engine.begin() as connection:
                gap_from = self._begin_incarnation(connection, wall)
        self.look(replaced=True, gap_from=gap_from)

    def _begin_incarnation(self, connection: sa.Connection, wall: float) -> UnixTime:
        """The real last step of a restore, on a backup that is a copy of the database instead of a file."""
        reported = self.history.highest
        keys = Keys("sandbox", self.made.safe, self.made.signer)
        source = Source("simulated", 1, reported)
        filling = Filling(cast("Any", None), source, keys, wall, reported, lambda _what, _done, _all: None)
        head = read_head_of_segment(connection, None, wall)
        filling._heads.append(head)
        incarnation = f"{int(self.history.position.incarnation, 16) + 1:016x}"
        with mock.patch.object(fillings.secrets, "token_hex", return_value=incarnation):
            filling._begin_incarnation(connection)
        return head.recorded_at


class HeldUp:
    """The ledger as projector and filler read it: much at once, which may be slow while other reads are not."""

    def __init__(self, ledger: SqlLedger, wire: Wire) -> None:
        self._ledger, self._wire = ledger, wire
        self.head, self.wait_beyond = ledger.head, ledger.wait_beyond
        self.append, self.subject, self.replayed = ledger.append, ledger.subject, ledger.replayed

    async def events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        return await self._slowly(self._ledger.events, after, limit)

    async def records(self, after: tuple[int, bytes], limit: int) -> Sequence[tuple[int, FeedRecord]]:
        return await self._slowly(self._ledger.records, after, limit)

    async def _slowly(self, read: Callable[..., Awaitable[T]], *args: object) -> T:
        try:
            await self._wire.cross()
            found = await read(*args)
            await self._wire.cross(back=True)
        except Lost:
            raise LedgerUnavailable("the ledger's database does not answer") from None
        return found


class _Undone(Exception):
    """The transaction was rolled back by the server."""


class MadeDatabase(Database):
    """One admin process's way to the database; calls take simulated time, and no thread.

    chance: whether something rare, by its name and its share, happens now.
    """

    def __init__(self, store: Store, wire: Wire, chance: Callable[[str, float], bool]) -> None:
        self.is_sqlite = True
        self.engine = store.engine
        self._store, self._wire, self._chance = store, wire, chance
        self._read_at, self._read = 0, dict[object, object]()

    async def run(self, work: Work[T]) -> T:
        return await self._call(self._write, work)

    async def read(self, work: Work[T]) -> T:
        return await self._call(self._inspect, work)

    async def scrub(self) -> None:
        raise AssertionError("nobody is erased here")

    def _write(self, work: Work[T]) -> T:
        if self._chance("transaction undone", 0.01):
            self._undo(work)
        self._store.changes += 1
        done = self.transact(work)
        self._store.look()
        return done

    def _inspect(self, work: Work[T]) -> T:
        """What was read before is the same as long as nobody has written; to read it again would only cost time."""
        if not isinstance(work, FunctionType):
            return self._look_up(work)
        if self._read_at != self._store.changes:
            self._read_at, self._read = self._store.changes, {}
        place = (work.__code__, *(cell.cell_contents for cell in work.__closure__ or ()))
        if place not in self._read:
            self._read[place] = self._look_up(work)
        return cast("T", self._read[place])

    def _look_up(self, work: Work[T]) -> T:
        with self._translated():
            return work(self._store.made.reading)

    def _undo(self, work: Work[T]) -> None:
        def fail(connection: sa.Connection) -> T:
            work(connection)
            raise _Undone

        try:
            self.transact(fail)
        except _Undone:
            raise Lost from None

    async def _call(self, call: Callable[[Work[T]], T], work: Work[T]) -> T:
        """A cancelled caller waits, as for a thread."""
        with trio.CancelScope(shield=True):
            try:
                await self._wire.cross()
                done = call(work)
                await self._wire.cross(back=True)
            except Lost:
                raise LedgerUnavailable("the ledger's database does not answer") from None
        await trio.lowlevel.checkpoint_if_cancelled()
        return done
