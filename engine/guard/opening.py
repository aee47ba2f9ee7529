"""A guard put together from its settings: memory, evidence, the client, events, reports.

    async with open_guard("guard.toml") as guard:
        verdict = await guard.check(share)

Runs on trio and on asyncio. Here everything runs beside the caller's program, in its own tasks; `engine.guard.process`
runs the same parts as a program of their own. One process at a time has a store open.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import msgspec
from anyio.abc import TaskStatus

from engine.backoff import Backoff
from engine.clock import Clock, Seconds
from engine.errors import Fault
from engine.guard import checking
from engine.guard.config import GuardConfig, load_guard_config
from engine.guard.events import GuardEvents, service_tls
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_chain import line_of
from engine.guard.fallback_report import Report
from engine.guard.guard import Guard
from engine.guard.kept_keys import KeptKeys
from engine.guard.reporting import FallbackReporter, HttpsPost, Taken
from engine.guard.standing import CountedEvidence, health_of
from engine.guard.store import GuardStore
from engine.telemetry import logs
from engine.telemetry.guard_health import GuardHealth, PartHealth
from engine.telemetry.host import SystemClock

FLUSH_EVERY: Final = Seconds(1.0)
BACKOFF: Final = Backoff()

_log = logs.logger("guard")


class Service(Protocol):
    """Runs until it is cancelled, or fails; says when it is ready. On trio and on asyncio."""

    def __call__(self, *, task_status: TaskStatus[Any]) -> Awaitable[None]: ...


class Reports:
    """The way of reports to the service: an `engine.guard.reporting.Post` that knows when it was last of use."""

    def __init__(self, config: GuardConfig, clock: Clock) -> None:
        """Raises BadConfig."""
        self._config = config
        self._clock = clock
        self._https = HttpsPost(config.service.machine_url, service_tls(config))
        self.taken_at: float | None = None  # seconds since 1970

    async def __aenter__(self) -> "Reports":
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
            await self._https.aclose()

    async def __call__(self, report: Report) -> Taken:
        """See `Post`."""
        taken = await self._https(report)
        self.taken_at = float(self._clock.now())
        return taken

    def reload(self) -> None:
        """Take certificate and authority anew, for calls to come. Raises BadConfig, and then keeps the old."""
        self._https.renew(service_tls(self._config))


class Parts:
    """An open guard. services: what must run for it, by name.

    reloads: read files anew, by part; each may raise a Fault.
    """

    def __init__(
        self,
        config: GuardConfig,
        store: GuardStore,
        evidence: CountedEvidence,
        guard: Guard,
        events: GuardEvents,
        reports: Reports,
    ) -> None:
        self.guard = guard
        self._reports = reports
        self._config = config
        self._store = store
        self._evidence = evidence
        self._events = events
        self.services: dict[str, Service] = {
            "events": events.run,
            "memory": self._keep_flushing,
            "reports": FallbackReporter(
                # Not as the log has it: a full log cannot take the end of an outage before it is reported.
                evidence.log,
                reports,
                random.random,
                in_outage=lambda: guard.status().outage_since is not None,
            ).run,
        }
        self.reloads: dict[str, Callable[[], None]] = {
            "introspection": guard.renew,
            "events": events.reload,
            "reports": reports.reload,
        }

    def find_evidence(self, evidence_id: str) -> bytes | None:
        """What was recorded under an id, as JSON; None: nothing, or not any more. Raises MemoryFull."""
        link = self._evidence.log.read(evidence_id)
        return None if link is None else line_of(link)

    def health(self, parts: tuple[PartHealth, ...], *, draining: bool) -> GuardHealth:
        """How everything stands now."""
        return health_of(
            self._config,
            self.guard.status(),
            self._store.statistics(),
            self._events.status(),
            self._evidence,
            self._reports.taken_at,
            parts,
            draining=draining,
        )

    async def _keep_flushing(self, *, task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write the answers that wait, and that an outage goes on, whether or not more come of either."""
        task_status.started()
        while True:
            await anyio.sleep(FLUSH_EVERY)
            self.guard.note_time()  # first: the evidence may have room where the memory has none
            self._store.flush()


@asynccontextmanager
async def open_parts(config: GuardConfig, clock: Clock) -> AsyncIterator[Parts]:
    """Open everything; nothing runs yet. Raises BadConfig, StoreInUse, OtherKey, MemoryFull, StoreDown."""
    with _opened(config, clock) as (store, evidence):
        async with (
            Guard(config, memory=store, evidence=evidence, shelf=_shelf(config, clock), clock=clock) as guard,
            GuardEvents(config, store, clock, jitter=random.random, answered_at=guard.answered_at) as events,
            Reports(config, clock) as reports,
        ):
            yield Parts(config, store, evidence, guard, events, reports)


def _shelf(config: GuardConfig, clock: Clock) -> KeptKeys:
    return KeptKeys(config.store, config.client_id, clock.now)


@contextmanager
def _opened(config: GuardConfig, clock: Clock) -> Iterator[tuple[GuardStore, CountedEvidence]]:
    """Memory and evidence, closed in the end whatever happens."""
    store = GuardStore(config.store, config.client_id, clock.now)
    try:
        log = EvidenceLog(config.evidence, config.store, config.client_id, clock.now)
        try:
            yield store, CountedEvidence(log)
        finally:
            log.close()
    finally:
        store.close()


@asynccontextmanager
async def open_guard(settings: str | PathLike[str] | GuardConfig) -> AsyncIterator[Guard]:
    """A guard inside your program, for its whole life. settings: a TOML file, or what was read from one.

    Raises a Fault of one sentence where settings, files or the store cannot be used. What the block raises comes
    through as it is.
    """
    config = settings if isinstance(settings, GuardConfig) else load_guard_config(Path(settings))
    checking.check(msgspec.structs.replace(config, sidecar=None))
    async with open_parts(config, SystemClock()) as parts, _running(parts.services):
        yield parts.guard


@asynccontextmanager
async def _running(services: Mapping[str, Service]) -> AsyncIterator[None]:
    """Closed by hand: a group of tasks would put what the block raises into an exception group."""
    stack = AsyncExitStack()
    tasks = await stack.enter_async_context(anyio.create_task_group())
    for name, service in services.items():
        tasks.start_soon(_keep, name, service)
    try:
        yield
    finally:
        tasks.cancel_scope.cancel()
        await stack.aclose()


async def _keep(name: str, service: Service) -> None:
    """Run a service, and again after a failure, for ever."""
    failures = 0
    while True:
        try:
            await service(task_status=anyio.TASK_STATUS_IGNORED)
        except Exception as error:
            failures += 1
            text = error.text if isinstance(error, Fault) else repr(error)
            _log.error("guard_part_failed", part=name, text=text)
            await anyio.sleep(BACKOFF.delay(failures + 1, random.random()))  # noqa: S311 - jitter, not a secret
