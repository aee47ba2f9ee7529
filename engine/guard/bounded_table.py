"""Sealed rows within a bound: what goes first when room is needed, and what is never given up.

Rank 0, refusals of tokens that were never known as active, goes first: the oldest raises the floor below which no
answer is taken any more, so nothing is lost by that. Rank 1, active answers, goes next, the ones that can be used the
shortest first. Rank 2, ends and narrowings and refusals of known tokens, guards against answers of before: it goes when
no such answer could still be used, never for room. Where nothing else is left, a full store takes nothing more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.guard.memory import MemoryFull
from engine.guard.rules import KeptToken
from engine.guard.sealed_table import Head, SealedTable
from engine.guard.sealing import Sort
from engine.guard.table import PAGE_BYTES, Row, StoreDamaged

GARBAGE: Final = 0
ACTIVE: Final = 1
GUARDING: Final = 2
LONGEST_USE: Final = 8 * 86_400  # seconds: the longest outage cap there is (a week), and a day for clocks
NO_END: Final = 1 << 62  # due: never

_SWEEP_EVERY: Final = 64  # transactions
_SWEPT: Final = 128  # rows of a rank in one sweep: twice as many as came since the last one
_RESERVE: Final = 512  # pages kept free for what must be kept; an eighth of a small store
_SHED: Final = 1_024  # active answers given up at once for room

_tokens: Final = msgspec.msgpack.Decoder(KeptToken)


class BoundedTable:
    """A sealed table that keeps within `max_tokens` of ranks 0 and 1, and within the pages of its file.

    on_change: hears of every record that is put or taken away, though its transaction may fail yet.
    """

    def __init__(
        self,
        sealed: SealedTable,
        max_tokens: int,
        wall: Callable[[], UnixTime],
        on_change: Callable[[Sort, bytes], None] = lambda _sort, _name: None,
    ) -> None:
        self.sealed = sealed
        self.get = sealed.get
        self.rank = sealed.rank
        self._max_tokens = max_tokens
        self._wall = wall
        self._on_change = on_change
        self._reserve = min(_RESERVE, sealed.table.max_pages // 8)
        self._until_sweep = 0
        self.counts = {rank: sealed.table.count(rank) for rank in (GARBAGE, ACTIVE, GUARDING)}

    @property
    def head(self) -> Head:
        """What is known of the whole."""
        return self.sealed.head

    @contextmanager
    def writing(self, *, durable: bool) -> Iterator[None]:
        """One transaction, after which the bounds hold again. Raises MemoryFull, and then has changed nothing."""
        if self.sealed.table.free_pages() < self._reserve:
            self.shed()
        counts = dict(self.counts)
        try:
            with self.sealed.writing(durable=durable):
                yield
                self._trim()
        except BaseException:
            self.counts = counts
            raise

    def put(self, sort: Sort, name: bytes, record: bytes, *, rank: int, due: int) -> None:
        """Keep a record in place of what stands under its name. Within `writing`."""
        self._on_change(sort, name)
        before = self.sealed.put(sort, name, record, rank=rank, due=due)
        if before is not None:
            self.counts[before] -= 1
        self.counts[rank] += 1

    def free_bytes(self) -> int:
        """How much more the file may take."""
        return max(0, self.sealed.table.free_pages()) * PAGE_BYTES

    def due(self) -> int:
        """Until when a word of now guards: what it guards against cannot be used any more after that."""
        return max(int(self.head.latest_use), self._wall() + LONGEST_USE)

    def shed(self) -> bool:
        """Give up some active answers for room; False: there are none. Raises MemoryFull where even that fails."""
        rows = [row for rank in (GARBAGE, ACTIVE) for row in self.sealed.table.first(rank, _SHED)][:_SHED]
        if not rows:
            return False
        counts = dict(self.counts)
        try:
            with self.sealed.writing(durable=False):
                for row in rows:
                    self._take_away(row)
        except MemoryFull:
            self.counts = counts
            raise
        return True

    def _trim(self) -> None:
        excess = self.counts[GARBAGE] + self.counts[ACTIVE] - self._max_tokens
        if excess > 0:
            first = self.sealed.table.first
            rows = first(GARBAGE, excess)
            for row in rows + first(ACTIVE, excess - len(rows)):
                self._take_away(row)
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._until_sweep = _SWEEP_EVERY
            self._sweep()

    def _sweep(self) -> None:
        """What is over: nobody could use it, and nothing it guards."""
        now = self._wall()
        for rank, before in ((GARBAGE, now - LONGEST_USE), (ACTIVE, now), (GUARDING, now)):
            for row in self.sealed.table.first(rank, _SWEPT, before=before):
                self._take_away(row)

    def _take_away(self, row: Row) -> None:
        """A row that was kept here and stands where it was put; else its due date may have been forged."""
        sort, name, record = self.sealed.opened(row, Sort.TOKEN, Sort.CONSENT)
        self._on_change(sort, name)
        floor = self.head.floor
        if row.place.rank == GARBAGE:
            floor = max(floor, _read(record).refused_at)
        elif row.place.rank == GUARDING:  # written so long before: what was true by then is over, too
            floor = max(floor, UnixTime(row.place.due - LONGEST_USE))
        if floor != self.head.floor:
            self.sealed.set_head(floor=floor)
        self.sealed.take_away(row)
        self.counts[row.place.rank] -= 1


def _read(record: bytes) -> KeptToken:
    try:
        return _tokens.decode(record)
    except msgspec.MsgspecError as error:
        raise StoreDamaged("a record of the guard's has another form") from error
