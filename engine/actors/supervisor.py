"""Keeping something running: restart with back-off, forget old failures after a healthy minute, give up loudly.

What is supervised is a service (`async run(*, task_status)`), be it an actor in this process or a child process.
Its state has a name at every moment, so that a status page can say more than "not ready".
"""

import enum
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import trio

from engine.backoff import HEALTHY_AFTER, Backoff
from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.telemetry import logs

_log = logs.logger("actors")


class Service(Protocol):
    """Runs until it is done or fails; says when it is ready."""

    def __call__(self, *, task_status: trio.TaskStatus[Any]) -> Awaitable[None]: ...


class Life(enum.StrEnum):
    """Where a supervised service is."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # failed; the next try comes after a delay
    FINISHED = "finished"
    GAVE_UP = "gave_up"


class GaveUp(Fault):
    """Too many failures in a row; the owner must decide."""

    kind = Kind.UNAVAILABLE


class SupervisionStatistics(msgspec.Struct, frozen=True):
    """restarts: since the beginning. failures: in a row. since: trio's clock. last_fault: safe to show."""

    name: str
    life: Life
    since: float
    restarts: int
    failures: int
    last_fault: str


class Patience(msgspec.Struct, frozen=True):
    """When to give up: failures in a row, before the service was ever ready and after. None: never."""

    backoff: Backoff = Backoff()
    before_ready: int | None = 10
    after_ready: int | None = 10
    healthy_after: Seconds = HEALTHY_AFTER


class Supervision:
    """One service and its keeper. jitter: gives numbers in [0, 1)."""

    def __init__(
        self,
        name: str,
        service: Service,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._service = service
        self._patience = patience
        self._jitter = jitter
        self._life = Life.STARTING
        self._since = 0.0
        self._restarts = self._failures = 0
        self._last_fault = ""
        self._changed = trio.Event()
        self._first_ready = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the service until it returns. The first readiness is passed on. Raises GaveUp."""
        while True:
            self._enter(Life.STARTING)
            try:
                await self._service(task_status=_Readiness(self, task_status))
            except Exception as error:
                self._failed(error)
            else:
                self._enter(Life.FINISHED)
                return
            await trio.sleep(self._patience.backoff.delay(self._failures, self._jitter()))
            self._restarts += 1

    async def wait_for(self, life: Life) -> None:
        """Wait until the service is there."""
        while self._life is not life:
            await self._changed.wait()

    async def wait_ready(self) -> None:
        """Wait until the service was ready for the first time."""
        await self._first_ready.wait()

    def statistics(self) -> SupervisionStatistics:
        """How it stands now."""
        return SupervisionStatistics(
            self.name, self._life, self._since, self._restarts, self._failures, self._last_fault
        )

    def ready(self) -> bool:
        """The service said so; returns whether it was the first time."""
        first = not self._first_ready.is_set()
        self._first_ready.set()
        self._enter(Life.RUNNING)
        return first

    def _enter(self, life: Life) -> None:
        self._life = life
        self._since = trio.current_time()
        self._changed.set()
        self._changed = trio.Event()

    def _failed(self, error: Exception) -> None:
        healthy = self._life is Life.RUNNING and trio.current_time() - self._since >= self._patience.healthy_after
        self._failures = 1 if healthy else self._failures + 1
        self._last_fault = error.text if isinstance(error, Fault) else type(error).__name__
        if self._must_give_up(error):
            self._enter(Life.GAVE_UP)
            _log.critical("gave_up", service=self.name, failures=self._failures, exc_info=error)
            times = f" {self._failures} times in a row" if self._failures > 1 else ""
            raise GaveUp(f"{self.name} failed{times}: {self._last_fault}") from error
        self._enter(Life.WAITING)
        _log.error("failed", service=self.name, failures=self._failures, exc_info=error)

    def _must_give_up(self, error: Exception) -> bool:
        was_ready = self._first_ready.is_set()
        if not was_ready and isinstance(error, Fault) and error.kind is Kind.INVALID:
            return True  # it was told something wrong; trying again does not make it right
        limit = self._patience.after_ready if was_ready else self._patience.before_ready
        return limit is not None and self._failures >= limit


class _Readiness:
    """Stands between the service and the keeper's caller, who may be told only once."""

    def __init__(self, supervision: Supervision, outer: trio.TaskStatus[Any]) -> None:
        self._supervision = supervision
        self._outer = outer

    def started(self, value: Any = None) -> None:  # noqa: ANN401 - trio's own signature
        if self._supervision.ready():
            self._outer.started(value)
