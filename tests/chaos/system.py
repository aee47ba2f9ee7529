"""The whole system under test on this machine, of real processes, with a link of ours between any two of them.

Whatever joins it is one more process in `processes` or one more link in `links`: faults are drawn over what stands
there. Guards are started last, when the EDPs that they are of are registered.
"""

import json
import os
import secrets
import shutil
import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio

from admin.cli import embedded_redis
from admin.cli.children import STATE_MARK, end_left_over
from admin.cli.free_ports import free_ports
from admin.pki.authority import Authority
from admin.pki.key_files import generate_secret, write_private
from admin.pki.keys import generate_p256_key, generate_token_key
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.guard.config import load_guard_config
from engine.guard.store import GuardStore
from engine.telemetry.host import SystemClock
from tests.chaos import doors
from tests.chaos.links import Link
from tests.chaos.plan import ALL_EDPS, ALL_NODES, CHILDREN, DOOR_FAULTS, WAYS_MIXED, Fault, Targets, What
from tests.chaos.processes import Process, signal_to
from tests.chaos.settings import (
    ATPS,
    EDPS,
    GUARDS,
    HOST,
    OPERATOR,
    PUSHER,
    GuardPorts,
    NodePorts,
    Places,
    Ports,
    admin_settings,
    guard_settings,
    node_settings,
    pusher_settings,
    redis_settings,
)

READY_WITHIN = 90.0
COPY_EVERY = 8.0  # seconds between copies of Redis's data that it may be rolled back to


class NotReady(Exception):
    """A part did not come up."""


class System:
    """Processes and links by name. draw: what the links draw from. pace: see `tests.chaos.paced_guard`."""

    def __init__(self, places: Places, nodes: int, ledger_url: str, seed: int, pace: float = 1.0) -> None:
        self.places = places
        self.nodes = [f"node-{number}" for number in range(1, nodes + 1)]
        self.environment = {**os.environ, STATE_MARK: str(places.root)}
        self.processes: dict[str, Process] = {}
        self.links: dict[str, Link] = {}
        self.copy = places.root / "redis-copy"
        self._draw = Random(seed).random  # noqa: S311 - how bytes are cut, no secret
        self._status: dict[str, int] = {}
        self._sidecars: dict[str, int] = {}
        self._pace = pace
        self.doors: dict[What, int] = {}
        self._write(ledger_url, iter(free_ports(HOST, 4 + nodes * 5 + 5 + len(GUARDS) * 4 + len(DOOR_FAULTS))))

    def targets(self, *, postgres: bool = False, guards: bool = True) -> Targets:
        """What the plan may break. guards: they themselves, and what they hear by, as well."""
        children = [f"{node}/{part}" for node in self.nodes for part in (*CHILDREN, "supervisor")]
        single = ("admin", "redis", PUSHER, *(("postgres",) if postgres else ()))
        # What there is only one of has as many cards as what each node has.
        links = (*self.links, *(f"{node} > everybody" for node in self.nodes))
        if not guards:
            links = tuple(name for name in links if name != "guards > admin" and name not in _pushed_links())
        return Targets((*children, *single * len(self.nodes), *(GUARDS if guards else ())), links, ("redis", "redis"))

    def links_of(self, target: str) -> list[Link]:
        """The links that a name stands for; a node that hears from nobody has lost both of its own."""
        node, _, other = target.partition(" > ")
        if other == "everybody":
            return [self.links[f"{node} > redis"], self.links[f"{node} > admin"]]
        if target == ALL_EDPS:
            return [self.links[f"edps > {each}"] for each in self.nodes]
        return [self.links[target]] if target in self.links else []

    def introspection_port(self, node: str) -> int:
        """Where EDPs reach it."""
        return self.links[f"edps > {node}"].port

    def sidecar_port(self, guard: str) -> int:
        """Where the EDP's own programs reach its guard; no link leads there."""
        return self._sidecars[guard]

    @property
    def machine_port(self) -> int:
        """Where the writer reaches the machine API."""
        return self.links["writer > admin"].port

    def context(self, client: str) -> ssl.SSLContext:
        """Of a participant."""
        context = ssl.create_default_context(cafile=str(self.places.pki / "ca.pem"))
        context.load_cert_chain(self.places.pki / f"{client}.pem", self.places.pki / f"{client}.key")
        return context

    def door_context(self) -> ssl.SSLContext:
        """Of the nodes' own listeners, for what stands in for them."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.places.pki / "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.places.pki / "server.pem", self.places.pki / "server.key")
        return context

    async def status(self, node: str) -> dict[str, Any]:
        """Its `/statusz`; nothing where it does not answer. Not through a link: this is our own eye."""
        return await trio.to_thread.run_sync(_status, self._status[node])

    def pid_of(self, target: str, share: float = 0.0) -> int:
        """The process that a name such as `node-1/feeder` stands for now; 0 = none. share: which of the workers."""
        name, _, part = target.partition("/")
        if not part or part == "supervisor":
            return self.processes[name].pid
        if part == "worker":
            workers = self.workers_of(name) or [0]
            return workers[int(share * len(workers))]
        found = self._children_of(name).get(part, 0)
        return found if _is_ours(found, str(self.places.root)) else 0

    def workers_of(self, node: str) -> list[int]:
        """The processes that answer there now."""
        found = self._children_of(node).get("workers", [])
        return [pid for pid in found if _is_ours(pid, str(self.places.root))]

    def _children_of(self, node: str) -> dict[str, Any]:
        try:
            pids: dict[str, Any] = json.loads((self.places.root / node / "run" / "node.json").read_bytes())["pids"]
        except (OSError, ValueError, KeyError):
            return {}
        return pids

    def roll_back(self) -> None:
        """Give Redis the data of an older moment; it is not running."""
        self.empty()
        if self.copy.exists():
            shutil.copytree(self.copy, self.places.redis / "appendonlydir", dirs_exist_ok=True)

    def empty(self) -> None:
        """Take Redis's data away; it is not running."""
        shutil.rmtree(self.places.redis / "appendonlydir", ignore_errors=True)

    async def keep_copies(self) -> None:
        """Copy Redis's data now and then."""
        while True:
            await trio.to_thread.run_sync(self._copy)
            await trio.sleep(COPY_EVERY)

    def _copy(self) -> None:
        fresh = self.copy.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError, shutil.Error):  # it is being killed or rolled back: the copy before stays
            shutil.copytree(self.places.redis / "appendonlydir", fresh)
            shutil.rmtree(self.copy, ignore_errors=True)
            fresh.rename(self.copy)

    def _write(self, ledger_url: str, free: Iterator[int]) -> None:
        """Identities, settings, processes and links."""
        places = self.places
        for directory in (places.pki, places.keys, places.redis, places.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_identities(places, self.nodes)
        ports = Ports(next(free), next(free), next(free), next(free))
        self.issuer = f"https://localhost:{ports.public}"
        places.config("redis").write_text(redis_settings(places, ports.redis))
        self._add("redis", [str(embedded_redis.find_server()), str(places.config("redis"))])
        redis = self._link("admin > redis", next(free), ports.redis)
        told = self._link("guards > admin", next(free), ports.machine)
        text = admin_settings(places, ports, ledger_url, redis, told, self.nodes)
        self._add_service("admin", "admin", text)
        self._link("writer > admin", next(free), ports.machine)
        for number, node in enumerate(self.nodes):
            own = NodePorts(next(free), next(free), next(free), next(free), next(free))
            self._link(f"{node} > redis", own.redis, ports.redis)
            self._link(f"{node} > admin", own.feed, ports.machine)
            self._link(f"edps > {node}", own.reached, own.introspection)
            self.links[f"edps > {node}"].doors = self.doors
            self._status[node] = own.status
            text = node_settings(places, ports, node, own, workers=1 + number % 2)
            self._add_service(node, "node", text)
        feed = self._link("pusher > admin", next(free), ports.machine)
        self._add_service(PUSHER, PUSHER, pusher_settings(places, ports, next(free), feed))
        self.doors |= {what: next(free) for what in DOOR_FAULTS}
        for guard in GUARDS:
            self._add_guard(guard, ports, GuardPorts(next(free), next(free), next(free), next(free)), told)

    def _add_guard(self, guard: str, ports: Ports, own: GuardPorts, told: int) -> None:
        self._link(f"pusher > {guard}", own.pushed, own.receiver)
        self._sidecars[guard] = own.sidecar
        nodes = [self.introspection_port(node) for node in self.nodes]
        self._add_service(guard, "guard", guard_settings(self.places, ports, guard, own, nodes, told))
        _age_memory(self.places.config(guard))

    def _add_service(self, name: str, command: str, text: str) -> None:
        self.places.config(name).write_text(text)
        module = ["admin.cli", command]
        if command == "guard" and self._pace != 1.0:
            module = ["tests.chaos.paced_guard", "--pace", str(self._pace)]
        self._add(name, [sys.executable, "-m", *module, "--config", str(self.places.config(name))])

    def _add(self, name: str, argv: list[str]) -> None:
        self.processes[name] = Process(name, argv, self.places.logs / f"{name}.log", self.environment)

    def _link(self, name: str, port: int, target: int) -> int:
        self.links[name] = Link(name, port, target, self._draw)
        return port


@asynccontextmanager
async def running(system: System) -> AsyncIterator[None]:
    """Everything up and kept up until the end of the block; then every process is ended."""
    try:
        async with trio.open_nursery() as nursery:
            for link in system.links.values():
                await nursery.start(link.run)
            for what, port in system.doors.items():
                await nursery.start(doors.serve, what, port, system.door_context())
            await _start(system)
            for process in system.processes.values():
                nursery.start_soon(process.keep)
            nursery.start_soon(system.keep_copies)
            yield
            nursery.cancel_scope.cancel()
    finally:
        end(system)


async def wait_current(system: System, within: float) -> dict[str, float]:
    """Seconds until each node called itself current. Raises NotReady naming the one that did not."""
    began, found = trio.current_time(), dict[str, float]()
    while trio.current_time() < began + within:
        for node in system.nodes:
            if node not in found and (await system.status(node)).get("state") == "current":
                found[node] = trio.current_time() - began
        if len(found) == len(system.nodes):
            return found
        await trio.sleep(0.05)
    late = [node for node in system.nodes if node not in found]
    raise NotReady(f"not current within {within:.0f} s: {', '.join(late)}; logs lie in {system.places.logs}")


def end(system: System) -> None:
    """End what was started, whoever asks whom last."""
    for name, process in reversed(system.processes.items()):
        for part in CHILDREN if name in system.nodes else ():
            if pid := system.pid_of(f"{name}/{part}"):
                signal_to(pid, signal.SIGCONT)
        process.send(signal.SIGCONT)
    try:
        for process in reversed(system.processes.values()):
            process.send(signal.SIGTERM)
        for process in reversed(system.processes.values()):
            process.stop()
    finally:
        end_left_over(system.places.root)


async def _start(system: System) -> None:
    for name, process in system.processes.items():
        if name in GUARDS:
            continue
        process.start()
        if name == "admin":  # nodes that come before it wait longer than it takes
            await _wait_admin(system)
    await wait_current(system, READY_WITHIN)


async def _wait_admin(system: System) -> None:
    url = f"{system.issuer}/jwks"
    context = ssl.create_default_context(cafile=str(system.places.pki / "ca.pem"))
    with trio.move_on_after(READY_WITHIN):
        while system.processes["admin"].alive:
            if await trio.to_thread.run_sync(partial(_answers, url, context)):
                return
            await trio.sleep(0.1)
    raise NotReady(f"admin did not start: {system.processes['admin'].log}")


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except OSError:
        return False


def _status(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/statusz", timeout=1) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except (OSError, ValueError, urllib.error.URLError):
        return {}


def _age_memory(config: Path) -> None:
    """A guard that has been in use for an hour: a memory that has just begun takes no answers for a minute."""
    settings = load_guard_config(config)
    before = UnixTime(SystemClock().now() - 3_600)
    GuardStore(settings.store, settings.client_id, lambda: before).close()


def _is_ours(pid: int, mark: str) -> bool:
    """A pid may have become somebody else's meanwhile."""
    try:
        return pid > 0 and f"{STATE_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _make_identities(places: Places, nodes: list[str]) -> None:
    now = SystemClock().now()
    authority = Authority.create(places.pki, now)
    authority.issue_server(now).write(places.pki / "server.pem", places.pki / "server.key")
    for client in (OPERATOR, *ATPS, *(edp.client_id for edp in EDPS), PUSHER, *nodes):
        issued = authority.issue_client(ClientId(client), now)
        issued.write(places.pki / f"{client}.pem", places.pki / f"{client}.key")
    for guard in GUARDS:
        authority.issue_server(now).write(places.pki / f"{guard}.pem", places.pki / f"{guard}.key")
        generate_secret(places.store_key(guard))
        write_private(places.secret(guard), secrets.token_hex(32).encode())
    for name in ("feed-mac.key", "meter.key", "person.key"):
        generate_secret(places.keys / name)
    generate_token_key(places.keys / "token.pem")
    for name in ("checkpoint.pem", "event.pem"):
        generate_p256_key(places.keys / name)


def _pushed_links() -> set[str]:
    return {f"pusher > {guard}" for guard in GUARDS}


@contextmanager
def _all_killed(system: System, fault: Fault) -> Iterator[None]:
    """Their supervisors, whose children end with them; all stay away until the fault is over."""
    for node in system.nodes:
        system.processes[node].kill(fault.until - fault.at)
    yield


@contextmanager
def _all_frozen(system: System) -> Iterator[None]:
    """Every process of every node."""
    parts = [f"{node}/{part}" for node in system.nodes for part in ("supervisor", "feeder")]
    pids = [system.pid_of(part) for part in parts] + [pid for node in system.nodes for pid in system.workers_of(node)]
    stopped = [pid for pid in pids if pid and signal_to(pid, signal.SIGSTOP)]
    try:
        yield
    finally:
        for pid in stopped:
            signal_to(pid, signal.SIGCONT)


@contextmanager
def broken(system: System, fault: Fault) -> Iterator[None]:
    """Break something for the length of the block."""
    if links := system.links_of(fault.target):
        for number, link in enumerate(links):
            what = WAYS_MIXED[number % len(WAYS_MIXED)] if fault.what is What.MIXED else fault.what
            link.apply(msgspec.structs.replace(fault, what=what))
        try:
            yield
        finally:
            for link in links:
                link.restore()
        return
    if fault.target == ALL_NODES:
        with _all_frozen(system) if fault.what is What.FREEZE else _all_killed(system, fault):
            yield
        return
    pid = system.pid_of(fault.target, fault.share)
    if fault.what is What.FREEZE:
        stopped = bool(pid) and signal_to(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if stopped:
                signal_to(pid, signal.SIGCONT)
        return
    _kill(system, fault, pid)
    yield


def _kill(system: System, fault: Fault, pid: int) -> None:
    process = system.processes.get(fault.target.removesuffix("/supervisor"))
    if process is None:  # a child, whose supervisor starts it again
        if pid:
            signal_to(pid, signal.SIGKILL)
        return
    before = {What.EMPTY: system.empty, What.ROLL_BACK: system.roll_back}.get(fault.what)
    process.kill(fault.until - fault.at, before)
