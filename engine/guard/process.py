"""The guard as a program: the parts of `opening`, each watched over, and the sidecar that programs ask.

SIGTERM and Ctrl-C drain: whoever asked is answered, then everything is closed. SIGHUP reads certificates, their
keys, authorities and the secret again; what cannot be used is logged and changes nothing.
"""

import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import trio

from engine.actors.supervisor import Patience, Supervision
from engine.clock import Seconds
from engine.config import BadConfig
from engine.errors import Fault
from engine.guard import checking, doors
from engine.guard.config import GuardConfig
from engine.guard.config import Sidecar as SidecarConfig
from engine.guard.opening import Parts, open_parts
from engine.guard.sidecar import Sidecar, StatusPages
from engine.listener.serve import Handler, Limits, Server, serve
from engine.listener.sockets import listen, port_of
from engine.telemetry import logs
from engine.telemetry.guard_health import GuardHealth, PartHealth
from engine.telemetry.host import SystemClock
from engine.telemetry.reloads import reload_each

DRAIN: Final = Seconds(12.0)  # a question takes 9.4 seconds at most
# What cannot begin is told at the start; after that a guard goes on: there is nobody above it that could do better.
_PATIENCE: Final = Patience(before_ready=1, after_ready=None)

_log = logs.logger("guard")


def run_guard(config: GuardConfig) -> None:
    """Run until SIGTERM or SIGINT. Raises a Fault where settings, files or ports cannot be used."""
    logs.configure(config.log_level, role="guard", client_id=config.client_id)
    if config.sidecar is None:
        raise BadConfig("`ccs guard` needs a `sidecar` table; without one the guard is a library, inside your program")
    checking.check(config)
    with doors.bind(config.sidecar) as bound, _status_sockets(config.sidecar) as status:
        try:
            trio.run(_Process(config, bound, status).run)
        except ExceptionGroup as group:
            raise _first(group) from group


@contextlib.contextmanager
def _status_sockets(config: SidecarConfig) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(bound) for bound in listen("127.0.0.1", config.status_port)]


class _Process:
    """What runs, and how it stands."""

    def __init__(self, config: GuardConfig, bound: doors.Bound, status: list[socket.socket]) -> None:
        self._config = config
        self._bound = bound
        self._status = status
        self._draining = False
        self._parts: Parts | None = None
        self._supervisions: list[Supervision] = []
        self._sidecars: list[Sidecar] = []
        self._servers: dict[str, Server] = {}
        self._clock = SystemClock()

    async def run(self) -> None:
        """Open the parts, run them, serve; until told to stop."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with open_parts(self._config, self._clock) as self._parts, trio.open_nursery() as working:
                for name, service in self._parts.services.items():
                    await self._start(working, name, _plain(service))
                async with trio.open_nursery() as serving:
                    await self._serve(serving, self._parts)
                    _log.info("guard_serves", **self._addresses())
                    await self._obey(signals)
                working.cancel_scope.cancel()

    def health(self) -> GuardHealth:
        """How the guard stands at this moment."""
        assert self._parts is not None  # noqa: S101 - nobody can ask before
        parts = tuple(_part(supervision) for supervision in self._supervisions)
        return self._parts.health(parts, draining=self._draining)

    async def _serve(self, nursery: trio.Nursery, parts: Parts) -> None:
        sidecar = self._config.sidecar
        assert sidecar is not None  # noqa: S101 - `run_guard` has looked
        for sockets, door in self._bound.doors:
            handler = Sidecar(parts.guard, door, self.health, parts.find_evidence)
            self._sidecars.append(handler)
            name = "loopback" if door.secret is not None else "socket"
            await self._start(
                nursery, name, self._server(name, handler, sockets, _limits(handler, sidecar.max_connections))
            )
        pages = StatusPages(self.health, port_of(self._status))
        await self._start(nursery, "status", self._server("status", pages, self._status, _limits(pages, 64)))

    async def _start(self, nursery: trio.Nursery, name: str, service: Callable[..., Awaitable[None]]) -> None:
        """Returns once it is ready. Raises GaveUp where it cannot begin."""
        supervision = Supervision(name, service, _PATIENCE)
        self._supervisions.append(supervision)
        await nursery.start(supervision.run)

    def _server(
        self, name: str, handler: Handler, sockets: list[socket.socket], limits: Limits
    ) -> Callable[..., Awaitable[None]]:
        @_plain
        async def run(*, task_status: trio.TaskStatus[Any]) -> None:
            """On copies: what a server that failed has closed can be served again."""
            async with trio.open_nursery() as nursery:
                copies = [bound.dup() for bound in sockets]
                self._servers[name] = await nursery.start(
                    partial(serve, handler, copies, None, limits, clock=self._clock)
                )
                if self._draining:
                    self._servers[name].drain()
                task_status.started()

        return run

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._reload()
                continue
            _log.info("guard_drains")
            self._draining = True
            for server in self._servers.values():
                server.drain()
            return

    def _reload(self) -> None:
        """Take in place what can be. What cannot be used is said, and changes nothing."""
        assert self._parts is not None  # noqa: S101 - it runs
        reload_each({**self._parts.reloads, "secret": self._reload_secret}, _log)

    def _reload_secret(self) -> None:
        sidecar = self._config.sidecar
        if sidecar is None or sidecar.secret_file is None or sidecar.port is None:
            return
        secret = doors.read_secret(sidecar.secret_file)
        for handler in self._sidecars:
            handler.change_secret(secret)

    def _addresses(self) -> dict[str, object]:
        sidecar = self._config.sidecar
        path = None if sidecar is None or sidecar.socket is None else str(sidecar.socket)
        return {"socket": path, "port": self._bound.port, "status_port": port_of(self._status)}


def _limits(handler: Sidecar | StatusPages, most: int) -> Limits:
    """most: connections, each of which waits for one answer at a time."""
    waiting = min(most, Limits().max_waiting)
    return Limits(http=handler.head_limits, max_connections=most, max_waiting=waiting, drain_timeout=DRAIN)


def _plain(service: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A service whose first fault comes out by itself, where its own tasks had it in a group."""

    async def run(*, task_status: trio.TaskStatus[Any]) -> None:
        try:
            await service(task_status=task_status)
        except ExceptionGroup as group:
            raise _first(group) from group

    return run


def _first(group: ExceptionGroup[Exception]) -> Exception:
    inner = group.subgroup(Fault) or group
    found = inner.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


def _part(supervision: Supervision) -> PartHealth:
    now = supervision.statistics()
    return PartHealth(now.name, now.life.value, now.restarts, now.last_fault)
