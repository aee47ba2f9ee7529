"""`/metrics` of the admin application, on the console's listener, for scrapers on this machine alone.

An operator's certificate in a scraper could write, and the numbers tell how much the service is used: so it is
neither on the machines' listener nor for the network. A call that came through a proxy is not of this machine,
whatever its address says.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
import trio
from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from admin import metrics
from admin.ledger.backup.record import BrokenRecord, RehearsedNote, ShippedNote, read_unchecked
from admin.ledger.outbox_figures import OutboxFigures
from admin.ledger.projector import ProjectorState, ProjectorStatistics
from admin.ledger.sequencer import SequencerState, SequencerStatistics
from admin.ledger.store import LedgerDamaged, LedgerReader, LedgerUnavailable
from admin.recovery.reading import RecoveryReader
from engine.feed.redis_client import LinkState, LinkStatistics
from engine.pusher.service import Lane

_PATIENCE: Final = 2.0  # seconds; a scraper waits ten as a rule
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "Via")

ReadProjector = Callable[[], ProjectorStatistics]
ReadLink = Callable[[], LinkStatistics]


class ObservedOutbox(msgspec.Struct, frozen=True):
    """The outbox as a scraper sees it."""

    sequencer: Callable[[], SequencerStatistics]
    figures: Callable[[], Awaitable[OutboxFigures]]


class Observer:
    """Brings gauges, and counts that others keep, up to date. projector: None = there is no Redis."""

    def __init__(
        self,
        ledger: LedgerReader,
        projector: ReadProjector | None,
        links: Mapping[str, ReadLink],
        recovery: RecoveryReader | None = None,
        backups: Path | None = None,
        outbox: ObservedOutbox | None = None,
    ) -> None:
        """links: the connections to Redis by name. backups: the directory with the record of them."""
        self._ledger = ledger
        self._recovery = recovery
        self._backups = backups
        self._outbox = outbox
        self._deliveries = metrics.Taken(metrics.DELIVERIES)
        self._projector = projector
        self._links = links
        self._entries = metrics.Taken(metrics.PROJECTED)
        self._restarts = metrics.Taken(metrics.PROJECTOR_RESTARTS)
        self._fills = metrics.Taken(metrics.PROJECTOR_FILLS)
        self._one = trio.CapacityLimiter(1)  # of a disk that hangs, one thread waits
        self._losses = {name: metrics.Taken(metrics.REDIS_LOSSES.labels(name)) for name in links}

    async def observe(self) -> None:
        """Now. A ledger that does not answer, or not readably, is told as such."""
        try:
            metrics.LEDGER_HEAD.set((await self._ledger.head()).position.seq)
            await self._observe_recovery()
            await self._observe_outbox()
            metrics.LEDGER_UP.set(1)
        except (LedgerUnavailable, LedgerDamaged):
            metrics.LEDGER_UP.set(0)
        await self._observe_backups()
        if self._projector is not None:
            self._observe_projector(self._projector())
        for name, read in self._links.items():
            link = read()
            metrics.REDIS_UP.labels(name).set(link.state is LinkState.UP)
            self._losses[name].reach(link.losses)

    async def _observe_recovery(self) -> None:
        if self._recovery is None:
            return
        standing = None if await self._recovery.recovery() is None else await self._recovery.standing()
        metrics.RECOVERING.set(standing is not None)
        metrics.RECOVERY_MISSING.set(0 if standing is None else len(standing.missing))
        metrics.RECOVERY_DOUBTS.set(0 if standing is None else len(standing.in_doubt))

    async def _observe_backups(self) -> None:
        """The directory is on another machine's disk as a rule: one that does not answer keeps no scraper waiting."""
        metrics.BACKUP_RECORD_UP.set(0)
        if self._backups is None:
            return
        with trio.move_on_after(_PATIENCE), suppress(OSError, BrokenRecord):
            notes = await trio.to_thread.run_sync(
                read_unchecked, self._backups, abandon_on_cancel=True, limiter=self._one
            )
            metrics.BACKUP_RECORD_UP.set(1)
            _show_backups(*notes)

    async def _observe_outbox(self) -> None:
        if self._outbox is None:
            return
        now, left = self._outbox.sequencer(), await self._outbox.figures()
        for state in SequencerState:
            metrics.SEQUENCER_STATE.labels(state.value).set(state is now.state)
        metrics.SEQUENCER_POSITION.set(now.position)
        self._deliveries.reach(now.made)
        for lane in Lane:
            metrics.OUTBOX_PENDING.labels(lane.name.lower()).set(left.pending[lane])
            metrics.OUTBOX_OLDEST.labels(lane.name.lower()).set(left.oldest[lane])
        metrics.OUTBOX_PARKED.set(left.parked)
        metrics.OUTBOX_UNSIGNED.set(left.unsigned)
        metrics.OUTBOX_UNFETCHED.set(left.unfetched)
        metrics.OUTBOX_OVERDUE.set(left.overdue)
        metrics.PUSHER_LEASED.set(left.leased)

    def _observe_projector(self, now: ProjectorStatistics) -> None:
        for state in ProjectorState:
            metrics.PROJECTOR_STATE.labels(state.value).set(state is now.state)
        metrics.PROJECTOR_POSITION.set(0 if now.position is None else now.position.seq)
        self._entries.reach(now.appended)
        self._restarts.reach(now.restarts)
        self._fills.reach(now.fills)


def _show_backups(shipped: ShippedNote | None, rehearsed: RehearsedNote | None) -> None:
    metrics.BACKUP_NEWEST.set(shipped.as_of if shipped else 0)
    metrics.BACKUP_POSITION.set(shipped.seq if shipped else 0)
    metrics.BACKUP_FULL.set(shipped.full_at if shipped else 0)
    metrics.REHEARSED.set(rehearsed.at if rehearsed else 0)
    metrics.REHEARSAL_RIGHT.set(rehearsed is not None and not rehearsed.fault)
    metrics.REHEARSAL_SECONDS.set(rehearsed.seconds if rehearsed else 0)


def metrics_views(observe: Callable[[], Awaitable[None]]) -> Blueprint:
    """Blueprint with the metrics; 404 to whoever is not on this machine."""
    views = Blueprint("metrics", __name__)

    @views.get("/metrics")
    async def show() -> Response:
        if not _is_local(request.remote_addr) or any(name in request.headers for name in _FORWARDED):
            raise NotFound
        await observe()
        return Response(metrics.exposition(), content_type=metrics.CONTENT_TYPE)

    return views


def _is_local(address: str | None) -> bool:
    try:
        return address is not None and ip_address(address).is_loopback
    except ValueError:
        return False
