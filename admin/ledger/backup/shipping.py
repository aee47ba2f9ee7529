"""Ships the ledger to the other place: a full segment, then its tail for as long as it is asked to.

Following, every second what is new becomes a segment of its own, so that a lost site costs seconds. A fresh full
segment is taken once a day beside that, on a snapshot of its own, while tails still go to the series before; when it
is whole, tails go on behind it. A database or a place that is away only makes it wait, and say so. Where the segment
that the next one would follow on is gone from the place, a full one is taken at once.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger.backup.contents import Head, Marks
from admin.ledger.backup.place import Newest, Place
from admin.ledger.backup.sealed import BrokenBackup, SealedWriter, WrongBackupKey
from admin.ledger.backup.taking import Taken, is_news, read_head_of_segment, read_marks, write_segment
from admin.ledger.database import Database
from admin.ledger.erasures import ledger_id
from admin.ledger.schema import events
from admin.ledger.store import LedgerUnavailable
from engine.clock import Seconds
from engine.errors import Fault, Kind

EVERY: Final = Seconds(1.0)
FULL_EVERY: Final = Seconds(86_400.0)
RETRY_FULL: Final = Seconds(600.0)

Progress = Callable[[int, int], None]  # seq written, seq in all


class PlaceOfAnother(Fault):
    """The place holds backups of another ledger."""

    kind = Kind.CONFLICT


class SegmentGone(Fault):
    """Somebody removed what the next segment would follow on."""

    kind = Kind.BROKEN


class Shipped(msgspec.Struct, frozen=True):
    """One segment in its place. seconds: from the snapshot to its name."""

    series: str
    index: int
    taken: Taken
    bytes: int
    seconds: float

    @property
    def newest(self) -> Newest:
        """As the end of its series."""
        return Newest(self.series, self.index, self.taken.head)


class Shipper:
    """wall: seconds since 1970."""

    def __init__(self, database: Database, place: Place, wall: Callable[[], float]) -> None:
        self._database = database
        self._place = place
        self._wall = wall

    async def full(self, progress: Progress = lambda _seq, _all: None) -> Shipped:
        """Begin a series. Raises LedgerUnavailable, OtherSchema, PlaceOfAnother, BrokenBackup."""
        await trio.to_thread.run_sync(self._refuse_another)
        return await self._ship(self._place.new_series(self._wall()), 0, None, progress)

    async def tail(self, newest: Newest) -> Shipped | None:
        """Continue a series with what is new; None = nothing is. Raises as `full`, and SeriesTaken."""
        after = newest.head.until
        until = await self._database.read(lambda connection: read_marks(connection, self._wall()))
        if not await self._database.read(lambda connection: is_news(connection, after, until)):
            return None
        return await self._ship(newest.series, newest.index + 1, after, lambda _seq, _all: None)

    async def continuable(self) -> Newest | None:
        """The newest series of the place, if the database is where it ends or further. Raises as `full`."""
        newest = await trio.to_thread.run_sync(self._refuse_another)
        if newest is None:
            return None
        return newest if await self._database.read(lambda connection: _continues(connection, newest.head)) else None

    async def holds(self, newest: Newest) -> bool:
        """Whether the place still has the first and the last segment of what is followed, or is away."""
        return await trio.to_thread.run_sync(
            lambda: all(self._place.holds(newest.series, index) for index in (0, newest.index))
        )

    async def age(self, series: str) -> Seconds:
        """How long ago its full segment was taken. Raises BrokenBackup, WrongBackupKey."""
        first = await trio.to_thread.run_sync(self._place.head, series, 0)
        return Seconds(max(0.0, self._wall() - first.until.wall))

    async def _ship(self, series: str, index: int, after: Marks | None, progress: Progress) -> Shipped:
        began = trio.current_time()
        taken: list[Taken] = []

        def write(writer: SealedWriter) -> None:
            taken.append(self._database.inspect(lambda connection: self._take(connection, writer, after, progress)))

        size = await trio.to_thread.run_sync(self._place.publish, series, index, write)
        return Shipped(series, index, taken[0], size, trio.current_time() - began)

    def _take(self, connection: sa.Connection, writer: SealedWriter, after: Marks | None, progress: Progress) -> Taken:
        head = read_head_of_segment(connection, after, self._wall())

        def report(seq: int) -> None:
            trio.from_thread.check_cancelled()
            progress(seq, head.until.seq)

        return write_segment(connection, writer, head, report)

    def _refuse_another(self) -> Newest | None:
        """The newest series of the place. Raises PlaceOfAnother where it is not this ledger's."""
        newest = furthest(readable(self._place)[0])  # one that cannot be read is no reason to make none
        ours = self._database.inspect(ledger_id)
        if newest is not None and newest.head.ledger != ours:
            raise PlaceOfAnother(f"{self._place.root} holds backups of another ledger ({newest.head.ledger})")
        return newest


class Follower:
    """Ships until cancelled. told: of each segment. waited: of each fault that it waits out."""

    def __init__(
        self,
        shipper: Shipper,
        *,
        every: Seconds = EVERY,
        full_every: Seconds = FULL_EVERY,
        told: Callable[[Shipped], None] = lambda _shipped: None,
        waited: Callable[[Fault], None] = lambda _fault: None,
        progress: Progress = lambda _seq, _all: None,
    ) -> None:
        self._shipper = shipper
        self._every = every
        self._full_every = full_every
        self._told = told
        self._waited = waited
        self._progress = progress
        self._newest: Newest | None = None
        self._due = 0.0

    async def run(self) -> None:
        """Continue the newest series or begin one. Raises what waiting does not mend: see `Shipper.full`."""
        end: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._follow(nursery)
            except (Fault, KeyboardInterrupt) as error:  # comes out as it is, not in a group
                end = error
                nursery.cancel_scope.cancel()
        if end is not None:
            raise end

    async def _follow(self, nursery: trio.Nursery) -> None:
        self._newest = await self._shipper.continuable()
        age = await self._shipper.age(self._newest.series) if self._newest else Seconds(0.0)
        while self._newest is None:
            await self._patiently(self._full)
            await trio.sleep(self._every)
        self._due = trio.current_time() + self._full_every - age
        while True:
            if trio.current_time() >= self._due:
                self._due = trio.current_time() + self._full_every
                nursery.start_soon(self._full_beside)
            await self._patiently(self._tail)
            await trio.sleep(self._every)

    async def _full_beside(self) -> None:
        """Where it fails, tails go on behind the series before, and it is tried again soon."""
        try:
            await self._full()
        except Fault as fault:
            self._waited(fault)
            self._due = trio.current_time() + min(RETRY_FULL, self._full_every)

    async def _full(self) -> None:
        shipped = await self._shipper.full(self._progress)
        self._newest = shipped.newest
        self._told(shipped)

    async def _tail(self) -> None:
        behind = self._newest
        if behind is None:
            return
        if not await self._shipper.holds(behind):
            self._waited(SegmentGone(f"segments of {behind.series} were removed: a full backup is taken"))
            await self._full()
            return
        shipped = await self._shipper.tail(behind)
        if shipped is None:
            return
        if self._newest is behind:  # else a fresh full segment came meanwhile: it holds this, and goes on
            self._newest = shipped.newest
        self._told(shipped)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except LedgerUnavailable as fault:
            self._waited(fault)


def readable(place: Place) -> tuple[list[Newest], dict[str, Fault]]:
    """The ends of all series that this key opens, and what is wrong with the others. Raises NoBackup."""
    ends: list[Newest] = []
    faults: dict[str, Fault] = {}
    for series in place.series():
        try:
            ends.append(place.newest(series))
        except (BrokenBackup, WrongBackupKey) as fault:
            faults[series] = fault
    return ends, faults


def furthest(ends: Iterable[Newest]) -> Newest | None:
    """The end of that series which is the furthest in the ledger's life."""
    return max(ends, key=lambda end: (end.head.until.seq, end.head.until.wall), default=None)


def _continues(connection: sa.Connection, head: Head) -> bool:
    """Whether the ledger is the one whose head that was, of the same incarnation and schema, and holds it still."""
    now = read_head_of_segment(connection, None, 0.0)
    kept = sa.select(events.c.hash).where(events.c.seq == head.until.seq)
    same = (now.revision, now.until.incarnation) == (head.revision, head.until.incarnation)
    return same and connection.execute(kept).scalar() == head.until.hash
