"""Real Redis-compatible servers for tests: one on a unix socket, a Sentinel group, a cluster of three.

All live in short temporary folders (a socket's path has a limit) and can be killed, stopped and restarted like
the real ones that fail. `valkey_server` is one per session; `valkey` is the same, emptied; whoever kills or
stops a server takes `doomed_valkey`, which is its own.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from admin.cli import embedded_redis
from admin.cli.free_ports import free_ports
from engine.backoff import Backoff
from engine.clock import Seconds
from engine.feed.redis_client import RedisClient
from engine.feed.redis_link import Credentials
from engine.feed.topology import Topology, topology_of

LOOPBACK = "127.0.0.1"
QUICK = Backoff(first=Seconds(0.01), limit=Seconds(0.05))
PATIENCE = 40.0  # how long a group of servers may take to agree on a busy machine


class Valkey:
    """One server that tests may hurt. The address stays the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server = embedded_redis.start(directory)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        return self._server.pid

    def call(self, *command: Any) -> Any:
        """One command by another client, blocking: the test's own eyes and hands."""
        with contextlib.closing(self._connect()) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def _connect(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=str(self._server.socket_path), socket_timeout=10)

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._server._process.kill()
        self._server._process.wait()

    def restart(self) -> None:
        """Stop or kill what is left and start on the same files."""
        self._server.stop()
        self._server = embedded_redis.start(self.directory)

    def pause(self) -> None:
        """SIGSTOP: the process is there and says nothing."""
        self._server._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._server._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.resume()
        self._server.stop()


class Instance:
    """A server with a configuration of its own, on a loopback port: part of a group."""

    def __init__(self, directory: Path, port: int, *lines: str, sentinel: bool = False) -> None:
        directory.mkdir()
        self.port = port
        self._configuration = directory / "server.conf"
        self._configuration.write_text(
            "\n".join((f"port {port}", f"bind {LOOPBACK}", f"dir {directory}", f"logfile {directory}/log", *lines, ""))
        )
        self._extra = ["--sentinel"] if sentinel else []
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(embedded_redis.find_server()), str(self._configuration), *self._extra],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(self._answers)
        except BaseException:
            self.kill()
            raise

    def call(self, *command: Any) -> Any:
        with contextlib.closing(redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=10)) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            return bool(self.call("PING"))
        return False


class Group:
    """Servers that belong together; if one does not start, those before it are not left running."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._instances: list[Instance] = []
        try:
            self.form()
        except BaseException:
            self.kill()
            raise

    def form(self) -> None:
        """Start the servers and wait until they agree."""
        raise NotImplementedError

    def add(self, name: str, port: int, *lines: str, sentinel: bool = False) -> Instance:
        instance = Instance(self._directory / name, port, *lines, sentinel=sentinel)
        self._instances.append(instance)
        return instance

    def kill(self) -> None:
        for instance in self._instances:
            instance.kill()


class SentinelGroup(Group):
    """One primary, one replica, three sentinels that agree on both."""

    name = "ccs"

    def form(self) -> None:
        primary, replica, *watchers = free_ports(LOOPBACK, 5)
        settings = ('save ""', "appendonly no", "repl-diskless-sync-delay 0")
        self.primary = self.add("p", primary, *settings)
        self.replica = self.add("r", replica, *settings, f"replicaof {LOOPBACK} {primary}")
        self.sentinels = [
            self.add(
                f"s{number}",
                port,
                f"sentinel monitor {self.name} {LOOPBACK} {primary} 2",
                f"sentinel down-after-milliseconds {self.name} 500",
                f"sentinel failover-timeout {self.name} 2000",
                sentinel=True,
            )
            for number, port in enumerate(watchers)
        ]
        wait_until(lambda: all(self._sees_everyone(sentinel) for sentinel in self.sentinels))

    def topology(self) -> Topology:
        addresses = [f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels]
        return topology_of(f"sentinel://{self.name}", sentinels=addresses, credentials=Credentials())

    def _sees_everyone(self, sentinel: Instance) -> bool:
        return sentinel.call("SENTINEL", "CKQUORUM", self.name) and bool(
            sentinel.call("SENTINEL", "REPLICAS", self.name)
        )


class Cluster(Group):
    """Three primaries with a third of the slots each; no replicas."""

    def form(self) -> None:
        settings = ("cluster-enabled yes", "cluster-node-timeout 1000", 'save ""')
        ports = free_ports(LOOPBACK, 3)
        self.nodes = [self.add(f"n{number}", port, *settings) for number, port in enumerate(ports)]
        bounds = (0, 5461, 10923, 16384)
        for number, node in enumerate(self.nodes):
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.call("CLUSTER", "MEET", LOOPBACK, self.nodes[0].port)
        wait_until(lambda: all(b"cluster_state:ok" in node.call("CLUSTER", "INFO") for node in self.nodes))

    def topology(self) -> Topology:
        seeds = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)
        return topology_of(f"cluster://{seeds}", credentials=Credentials())

    def holder(self, slot: int) -> Instance:
        """Who serves the slot, as the first node sees it."""
        for first, last, primary, *_ in self.nodes[0].call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise LookupError(f"nobody holds slot {slot}")


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll another process's state, bounded. Redis errors mean: not yet."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.exceptions.RedisError):
            if condition():
                return
        time.sleep(0.02)
    raise TimeoutError("the servers did not come to agree")


def client_of(url_or_topology: str | Topology, **settings: Any) -> RedisClient:
    """A client with quick retries and no luck in them. Start its `run` in the test's nursery."""
    if isinstance(url_or_topology, str):
        url_or_topology = topology_of(url_or_topology, credentials=Credentials())
    defaults = {"credentials": Credentials(), "tls": None, "name": "test", "jitter": lambda: 0.5, "backoff": QUICK}
    return RedisClient(url_or_topology, **(defaults | settings))


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ccs-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    with short_directory() as directory:
        server = Valkey(directory / "v")
        yield server
        server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The session's server, emptied, scripts too."""
    valkey_server.call("FLUSHALL")
    valkey_server.call("SCRIPT", "FLUSH")
    return valkey_server


@pytest.fixture
def doomed_valkey() -> Iterator[Valkey]:
    """A server of the test's own, to kill, pause and restart."""
    with short_directory() as directory:
        server = Valkey(directory / "v")
        yield server
        server.stop()


@pytest.fixture
async def redis_client(valkey: Valkey, nursery: Any) -> RedisClient:
    """A client of the emptied server, with its link up."""
    client = client_of(valkey.url)
    await nursery.start(client.run)
    await client.wait_up()
    return client


@pytest.fixture
def sentinel_group() -> Iterator[SentinelGroup]:
    with short_directory() as directory:
        group = SentinelGroup(directory)
        yield group
        group.kill()


@pytest.fixture
def valkey_cluster() -> Iterator[Cluster]:
    with short_directory() as directory:
        cluster = Cluster(directory)
        yield cluster
        cluster.kill()
