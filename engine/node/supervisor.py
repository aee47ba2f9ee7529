"""The supervisor of a node: owns the listening sockets, keeps a feeder and N workers running, serves the status.

It does no work that could fail with them. A dead child is started again at once (later ones with back-off); its
connections are lost, nobody else's. All workers share the accept queue, so a stopped worker holds no new
connections. A drain goes workers first, then the feeder, so that the last answers are still fresh.

SIGTERM and SIGINT drain, SIGHUP takes new settings and files, SIGUSR1 renews all workers one after another.
"""

import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from engine.actors.supervisor import GaveUp, Patience, Supervision
from engine.clock import Seconds
from engine.config import NodeConfig
from engine.errors import Fault, Kind
from engine.listener.serve import Limits, serve
from engine.listener.sockets import listen, port_of
from engine.node.address_space import check_map_size
from engine.node.balance import Page
from engine.node.child_process import KILL_MARGIN, ChildHopeless
from engine.node.children import Child
from engine.node.descriptors import allow_descriptors
from engine.node.left_over import outlast
from engine.node.orders import Order
from engine.node.process import cpu_seconds, resident_bytes
from engine.node.renewal import Renewal
from engine.node.status import FreshnessReader, StatusPages, check_loopback, status_of
from engine.replica.place import place_of
from engine.replica.reader import Replica
from engine.telemetry import logs, metric_files
from engine.telemetry.health import ChildStatus, NodeStatus
from engine.telemetry.host import SystemClock, boot_id

# Children are never given up once they were ready: the node would rather serve with what is left.
PATIENCE: Final = Patience(before_ready=6, after_ready=None)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STATUS_LIMITS: Final = Limits(max_connections=100, idle_timeout=Seconds(30.0), drain_timeout=Seconds(1.0))

_log = logs.logger("node")


class NodeFailed(Fault):
    """The node cannot run; the text is one sentence for the operator."""

    kind = Kind.UNAVAILABLE


class NodeMisconfigured(NodeFailed):
    """A child says that it cannot start with these settings and files."""

    kind = Kind.INVALID


class Modules(msgspec.Struct, frozen=True):
    """The mains of the child processes."""

    worker: str = "engine.node.worker"
    feeder: str = "engine.node.feeder"


def run_node(config: NodeConfig, path: Path | None = None, modules: Modules = Modules()) -> None:  # noqa: B008 - frozen
    """Run a node until SIGTERM or SIGINT, then drain. path: read again at SIGHUP. Raises Fault."""
    _adopt(config)
    check_loopback(config.status)
    check_map_size(config.replica)
    with _own(config.runtime_directory):
        metrics = config.runtime_directory / "metrics"
        within = Seconds(config.drain_timeout + KILL_MARGIN)
        outlast(_described(config), modules=(modules.worker, modules.feeder), metrics=metrics, within=within)
        metric_files.prepare(metrics)
        with Node(config, path, modules) as node:
            trio.run(node.run)


def _adopt(config: NodeConfig) -> None:
    """What the supervisor itself, and whatever it starts, takes from the settings. Raises BadConfig."""
    logs.configure(config.log_level, late=True, role="supervisor", node_id=config.node_id)
    allow_descriptors(config.listener.max_connections)


def _described(config: NodeConfig) -> Path:
    """Where pids and ports stand for whoever asks from outside."""
    return config.runtime_directory / "node.json"


@contextlib.contextmanager
def _own(directory: Path) -> Iterator[None]:
    """Two nodes in one runtime directory would overwrite each other's files."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / "node.lock").open("w")
    except OSError as error:
        raise NodeFailed(f"runtime-directory {directory}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NodeFailed(f"another node runs in {directory}") from error
        yield


class Node:
    """One node. Entered, it holds its sockets."""

    def __init__(self, config: NodeConfig, path: Path | None, modules: Modules) -> None:
        self._config = config  # as it was at the start; `_renewal.config` is what children get
        self._renewal = Renewal(config, path, _adopt)
        self._modules = modules
        self._runtime = config.runtime_directory
        self._draining = trio.Event()
        self._children: list[tuple[Supervision, Child]] = []

    def __enter__(self) -> "Node":
        listener, status = self._config.listener, self._config.status
        with contextlib.ExitStack() as opened:
            self._sockets = [opened.enter_context(bound) for bound in listen(listener.host, listener.port)]
            proxy = self._config.proxy_listener
            bound_for_proxy = listen(proxy.host, proxy.port) if proxy else []
            self._proxy_sockets = [opened.enter_context(bound) for bound in bound_for_proxy]
            self._status_sockets = [opened.enter_context(bound) for bound in listen(status.host, status.port)]
            self._ports = {"introspection": port_of(self._sockets), "status": port_of(self._status_sockets)}
            if self._proxy_sockets:
                self._ports["proxy"] = port_of(self._proxy_sockets)
            self._page = Page(self._worker_count())
            opened.callback(self._page.close)
            place = partial(place_of, self._config.replica.directory, boot_id())
            replica = Replica(self._config.replica.directory, map_size=self._config.replica.map_size)
            opened.callback(replica.close)
            opened.callback(partial(_described(self._config).unlink, missing_ok=True))
            self._freshness = FreshnessReader(replica, place=place, clock=SystemClock())
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    async def run(self) -> None:
        """Until a signal asks for the end and everything has drained. Raises NodeFailed, BadConfig."""
        given_up: Fault | None = None
        try:
            with trio.open_signal_receiver(*_SIGNALS) as signals:
                await self._run(signals)
        except* GaveUp as group:
            given_up = _first(group)
        if given_up is not None:
            hopeless = isinstance(given_up.__cause__, ChildHopeless)
            raise (NodeMisconfigured if hopeless else NodeFailed)(given_up.text) from given_up

    async def _run(self, signals: AsyncIterator[int]) -> None:
        workers = [self._worker(number) for number in range(1, self._worker_count() + 1)]
        feeder = self._feeder()
        renewing = partial(self._renewal.run, [child for _, child in self._children[:-1]], self._children[-1][1])
        async with trio.open_nursery() as lasting:
            pages = StatusPages(self.status, self._runtime / "metrics")
            await lasting.start(partial(serve, pages, self._status_sockets, None, STATUS_LIMITS, clock=SystemClock()))
            lasting.start_soon(feeder.run)
            async with trio.open_nursery() as working:
                for worker in workers:
                    working.start_soon(worker.run)
                working.start_soon(renewing)
                lasting.start_soon(self._announce, workers)
                await self._obey(signals)
                _log.info("draining")
                lasting.start_soon(_disregard, signals)
                self._draining.set()
                for bound in (*self._sockets, *self._proxy_sockets):
                    bound.close()  # else callers would wait in a queue that nobody serves any more
                working.cancel_scope.cancel()
            lasting.cancel_scope.cancel()
        _log.info("ended")

    def _worker_count(self) -> int:
        return self._config.workers or len(os.sched_getaffinity(0))

    def _worker(self, number: int) -> Supervision:
        name, sockets = f"worker-{number}", tuple(bound.fileno() for bound in self._sockets)
        proxy_sockets = tuple(bound.fileno() for bound in self._proxy_sockets)
        return self._child(
            name,
            self._modules.worker,
            lambda: Order(name, self._renewal.config, sockets, proxy_sockets, self._page.take()),
            beside=True,
        )

    def _feeder(self) -> Supervision:
        return self._child("feeder", self._modules.feeder, lambda: Order("feeder", self._renewal.config), beside=False)

    def _child(self, name: str, module: str, order: Callable[[], Order], *, beside: bool) -> Supervision:
        child = Child(module, order, changed=self._describe, ended=self._forget, beside=beside)
        supervision = Supervision(name, child.run, PATIENCE)
        self._children.append((supervision, child))
        return supervision

    async def _announce(self, workers: list[Supervision]) -> None:
        for worker in workers:
            await worker.wait_ready()
        _log.info("node_ready", ports=self._ports, workers=len(workers))

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._renewal.reload()
            elif number == signal.SIGUSR1:
                self._renewal.restart()
            else:
                return

    def status(self) -> NodeStatus:
        """At this moment."""
        return status_of(
            self._config.node_id,
            self._freshness.read(),
            tuple(_child_status(supervision, child) for supervision, child in self._children),
            draining=self._draining.is_set(),
            ports=self._ports,
            head=max(child.head for _, child in self._children),
            recovery=self._freshness.recovery,
        )

    def _describe(self) -> None:
        """Write `node.json` anew, whole or not at all."""
        by_name = {known.name: child.pid for known, child in self._children}
        workers = [pid for name, pid in by_name.items() if name != "feeder"]
        others = [pid for _, child in self._children for pid in child.other_pids]
        pids = {"node": os.getpid(), "workers": workers, "feeder": by_name.get("feeder", 0), "others": others}
        described = _described(self._config)
        fresh = described.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode({"pids": pids, "ports": self._ports}) + b"\n")
            fresh.replace(described)
        except OSError as error:  # a full disk must not keep children from starting
            _log.error("node_json_not_written", error=str(error))

    def _forget(self, pid: int, order: Order) -> None:
        if order.slot is not None:
            self._page.give_back(order.slot)
        try:
            metric_files.forget_process(self._runtime / "metrics", pid)
        except OSError as error:
            _log.error("metrics_not_forgotten", error=str(error))


async def _disregard(signals: AsyncIterator[int]) -> None:
    """Draining already. What nobody takes would be delivered again at the end, and end us before we have tidied up."""
    async for number in signals:
        _log.info("already_draining", signal=signal.Signals(number).name)


def _child_status(supervision: Supervision, child: Child) -> ChildStatus:
    known = supervision.statistics()
    return ChildStatus(
        name=known.name,
        life=known.life,
        pid=child.pid,
        restarts=known.restarts,
        failures=known.failures,
        resident=resident_bytes(child.pid) if child.pid else 0,
        last_fault=known.last_fault,
        cpu_seconds=cpu_seconds(child.pid) if child.pid else 0.0,
    )


def _first(group: BaseExceptionGroup[GaveUp]) -> GaveUp:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
