"""Writes all records of the ledger into Redis anew, behind the stream, while everything else goes on.

Records serve workers that miss something in their replica; without them they answer "ask again", never wrongly. So
nobody waits for this. First every record that stands in Redis is removed, because somebody may have forged it; then
the ledger's are written where none stands, since one that was appended meanwhile is newer. One filler at a time
holds a lease in Redis; the mark that all are there is set last, and only by its holder.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from admin.ledger.feed_copy import FeedCopy, Lease
from admin.ledger.sealing import Sealer
from admin.ledger.signal import Signal
from admin.ledger.store import FeedRecord, LedgerReader
from engine.clock import Seconds
from engine.errors import Fault
from engine.feed.entries import EntryKind
from engine.telemetry.logs import logger

PAGE: Final = 5_000  # records a read: long enough to be quick, short enough to stay in 2 MB
RETRY: Final = Seconds(0.5)  # when somebody else holds the lease, or Redis or the ledger is away
FIRST_PLACE: Final = (-1, b"")  # before every (kind, key)

_log = logger("admin.projector")


class FillProgress(msgspec.Struct, frozen=True):
    """How far a filling is. kind: of the records under way; done: all records written so far."""

    kind: EntryKind
    done: int


class _LeaseLost(Exception):
    """Another filler has taken over, or Redis went back in time: whoever holds it next begins from the start."""


class RecordsFiller:
    """One filler of one projector.

    draw_token: a random token, drawn once: the lease's owner. progress: told after every page.
    """

    def __init__(
        self,
        ledger: LedgerReader,
        copy: FeedCopy,
        sealer: Sealer,
        *,
        draw_token: Callable[[], bytes],
        progress: Callable[[FillProgress], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._copy = copy
        self._sealer = sealer
        self._owner = draw_token().hex().encode()  # no spaces, no colons
        self._number = 0
        self._progress = progress or _log_progress
        self._wanted: str | None = None
        self._asked = Signal()
        self.under_way: FillProgress | None = None
        self.fills = 0

    def ask(self, incarnation: str) -> None:
        """Say that the records of this incarnation are not all there; asking again changes nothing."""
        if self._wanted != incarnation:
            self._wanted = incarnation
            self._asked.ring()

    async def run(self) -> None:
        """Fill whenever asked, until cancelled."""
        while True:
            if self._wanted is None:
                await self._asked.wait()
                continue
            try:
                if not await self._fill(self._wanted):
                    await trio.sleep(RETRY)
            except Fault as fault:
                _log.warning("records_not_written", text=fault.text, detail=fault.detail)
                await trio.sleep(RETRY)
            finally:
                self._wanted = self.under_way = None  # the next look asks again if anything is amiss

    async def _fill(self, incarnation: str) -> bool:
        self._number += 1
        lease = await self._copy.claim(self._owner, self._number, incarnation)
        if lease is None:
            return False
        try:
            await self._write_all(lease, incarnation)
        except _LeaseLost:
            return False
        self.fills += 1
        return True

    async def _write_all(self, lease: Lease, incarnation: str) -> None:
        _log.info("records_filling", incarnation=incarnation)
        _hold(await self._copy.sweep(lease))
        place, done = FIRST_PLACE, 0
        while page := await self._ledger.records(place, PAGE):
            await self._write_page(lease, incarnation, page)
            last = page[-1][1]
            place, done = (int(last.kind), last.key), done + len(page)
            self.under_way = FillProgress(last.kind, done)
            self._progress(self.under_way)
        await self._finish(lease, incarnation)
        _log.info("records_filled", incarnation=incarnation, records=done)

    async def _write_page(self, lease: Lease, incarnation: str, page: Sequence[tuple[int, FeedRecord]]) -> None:
        sealed = [self._sealer.record(seq, record, incarnation) for seq, record in page]
        _hold(await self._copy.fill(lease, sealed))

    async def _finish(self, lease: Lease, incarnation: str) -> None:
        """The mark is only true if the ledger was of this incarnation from the first page to the last."""
        head = await self._ledger.head()
        if head.position.incarnation != incarnation:
            raise _LeaseLost
        _hold(await self._copy.finish(lease, incarnation))


def _hold(held: bool) -> None:
    if not held:
        raise _LeaseLost


def _log_progress(progress: FillProgress) -> None:
    _log.info("records_progress", kind=progress.kind.name.lower(), done=progress.done)
