"""`ccs up`: everything on this machine, embedded and seeded, until Ctrl-C.

One process watches four others: Redis, the admin application, an engine node, the pusher. What dies is started again;
what is stopped is stopped in order, so that every acknowledged write is on disk and no request in flight is lost.
"""

import json
import os
import random
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from admin.cli import embedded_redis
from admin.cli.children import STATE_MARK, Child, Revival, end_left_over
from admin.cli.sandbox_identities import make_identities
from admin.cli.state_folder import SandboxConfig, StateFolder, load_sandbox_config, settle_ports
from admin.cli.up_settings import (
    LEDGER_FILE,
    Addresses,
    describe,
    redis_url,
    write_admin_settings,
    write_node_settings,
    write_pusher_settings,
)
from engine.clock import Seconds

READY_WITHIN = Seconds(60.0)
LOOK_EVERY = Seconds(0.2)
PROBE_TIMEOUT = Seconds(2.0)
REDIS_MEMORY = "4gb"  # a million consents take 0.4 GB as records and as much again in the stream


def up(*, state: Path = Path("var"), workers: int | None = None, config: Path | None = None) -> None:
    """Run everything on this machine until Ctrl-C: Redis, ledger and APIs, a node, the pusher, 1,000 made-up consents.

    A second start goes on with the same state. Exit code 0 after Ctrl-C, SIGTERM or the terminal's end, 2 when the
    folder, the settings or a port cannot be used, 3 when a part does not start.

    Parameters
    ----------
    state
        Folder of certificates, keys, data and logs.
    workers
        Worker processes of the engine node; as many as cores where nothing is said.
    config
        TOML file with ports, workers, number of seeded consents, addresses of an own database or Redis.
    """
    settings = load_sandbox_config(config)
    if workers is not None:
        settings = msgspec.structs.replace(settings, workers=workers)
    folder = StateFolder(state)
    new = folder.open()
    stop = StopSignal()
    installation = Installation(folder, settings, Console(stderr=False))
    try:
        installation.start(new=new)
        stop.wait_for_it()
        installation.watch(stop.told)
    except Stopped:
        pass
    finally:
        stop.wait_for_it()
        installation.stop()


class Stopped(BaseException):
    """Ctrl-C while things start; not an Exception, so that nobody takes it for a fault and goes on."""


class StopSignal:
    """Ctrl-C, SIGTERM, or the terminal's end: interrupts the start, and is waited for afterwards."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self._interrupts = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def wait_for_it(self) -> None:
        """From now on the signal only sets `told`."""
        self._interrupts = False

    def _take(self, *_: object) -> None:
        self.told.set()
        if self._interrupts:
            self._interrupts = False
            raise Stopped


class Installation:
    """The processes of one sandbox."""

    def __init__(self, folder: StateFolder, settings: SandboxConfig, console: Console) -> None:
        self._folder, self._settings, self._console = folder, settings, console
        self._redis: embedded_redis.EmbeddedRedis | None = None
        self._admin = self._child("admin")
        self._node = self._child("node")
        self._pusher = self._child("pusher")
        self._described: dict[str, object] = {}
        os.environ[STATE_MARK] = str(folder.directory)  # every process of ours carries it, and is found by it

    def _child(self, name: str) -> Child:
        argv = [sys.executable, "-m", "admin.cli", name, "--config", str(self._folder.settings / f"{name}.toml")]
        return Child(name, argv, self._folder.logs / f"{name}.log")

    def start(self, *, new: bool) -> None:
        """Bring everything up, saying each step. Raises the fault of the step that failed."""
        folder = self._folder
        if left := end_left_over(folder.directory):
            self._console.print(f"  ended what an earlier start left behind: {left} processes")
        self._settings = settle_ports(self._settings)
        with self._step("keys and certificates"):
            make_identities(folder, new=new)
        if folder.has_ledger and not self._settings.ledger_url:
            folder.check_files(folder.ledger / LEDGER_FILE)
        with self._step("Redis"):
            redis = self._start_redis()
        write_admin_settings(folder, self._settings, redis)
        write_node_settings(folder, self._settings, redis)
        write_pusher_settings(folder, self._settings)
        with self._step("ledger and APIs"):
            self._start_admin()
        if not folder.has_ledger:  # what starts again later goes on with this one, and never begins another
            folder.note_ledger()
            write_admin_settings(folder, self._settings, redis)
        self._describe()
        with self._step(f"{self._settings.consents:,} consents of made-up people" if new else "participants"):
            self._seed()
        with self._step("engine node"):
            self._start_node()
        with self._step("pusher"):
            self._start_pusher()
        folder.complete()
        self._describe()
        self._show()

    def watch(self, stop: threading.Event) -> None:
        """Start again what dies, keep `sandbox.json` true, until told to stop. Nothing here waits for readiness."""
        parts = [
            Revival("redis", lambda: self._redis is None or self._redis.poll() is None, self._start_redis),
            Revival("admin", self._admin.alive, self._admin.start),
            Revival("node", self._node.alive, self._node.start),
            Revival("pusher", self._pusher.alive, self._pusher.start),
        ]
        while not stop.wait(LOOK_EVERY):
            for part in parts:
                if said := part.look(time.monotonic(), random.random()):  # noqa: S311 - jitter, not a secret
                    self._console.print(f"  {said}")
            self._describe()

    def stop(self) -> None:
        """Stop everything in order: first who asks, then who is asked."""
        self._folder.description.unlink(missing_ok=True)
        for child in (self._pusher, self._node, self._admin):
            child.stop()
        if self._redis:
            self._redis.stop()
        end_left_over(self._folder.directory)  # what a start that was interrupted did not get to note
        self._console.print("  stopped")

    def _start_redis(self) -> str:
        if self._settings.redis_url:
            return self._settings.redis_url
        self._redis = embedded_redis.start(self._folder.redis, max_memory=REDIS_MEMORY)
        return self._redis.url

    def _start_admin(self) -> None:
        self._admin.start()
        jwks = f"{Addresses.of(self._settings).public}/jwks"
        self._admin.wait_ready(lambda: answers(jwks, self._folder.pki / "ca.pem"), READY_WITHIN)

    def _start_node(self) -> None:
        self._node.start()
        self._node.wait_ready(lambda: answers(f"{Addresses.of(self._settings).status}/readyz/current"), READY_WITHIN)

    def _start_pusher(self) -> None:
        self._pusher.start()
        self._pusher.wait_ready(lambda: answers(f"{Addresses.of(self._settings).pusher}/readyz"), READY_WITHIN)

    def _seed(self) -> None:
        from admin.cli.seed import seed

        seed(self._folder.directory, consents=self._settings.consents, console=self._console)

    def _pids(self) -> dict[str, object]:
        pids: dict[str, object] = {"admin": self._admin.pid, "node": self._node.pid}
        if self._pusher.pid:
            pids["pusher"] = self._pusher.pid
        if self._redis:
            pids["redis"] = self._redis.pid
        try:
            known = json.loads((self._folder.run / "node" / "node.json").read_bytes())["pids"]
        except (OSError, ValueError, KeyError):
            return pids
        return pids | {name: known[name] for name in ("workers", "feeder") if name in known}

    def _describe(self) -> None:
        redis = redis_url(self._settings, self._redis.url if self._redis else "")
        pids = self._pids()
        if pids != self._described:
            describe(self._folder, self._settings, redis, pids)
            self._described = pids

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        with self._console.status(f"{what} ..."):
            yield
        self._console.print(f"  [green]✓[/] {what} [dim]{time.monotonic() - begun:.1f} s[/]")

    def _show(self) -> None:
        at, folder = Addresses.of(self._settings), self._folder
        table = Table.grid(padding=(0, 2))
        rows = {
            "introspection": f"{at.introspection}/introspect  (EDPs, client certificate)",
            "evaluations": f"{at.introspection}/access/v1/evaluations  (EDPs, client certificate)",
            "JSON API, feed": f"{at.machine}  (client certificate)",
            "metadata, JWKS": f"{at.public}/.well-known/oauth-authorization-server",
            "operators": at.console,
            "node status": f"{at.status}/statusz",
            "pusher status": f"{at.pusher}/statusz",
            "certificates": str(folder.pki),
            "for scripts": str(folder.description),
            "logs": str(folder.logs),
        }
        for what, where in rows.items():
            table.add_row(f"[bold]{what}[/]", where)
        self._console.print(table, soft_wrap=True)
        self._console.print("Ready. Ctrl-C stops everything; the next start goes on with the same state.")


def answers(url: str, ca_file: Path | None = None) -> bool:
    """Whether a GET brings 200."""
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT, context=context) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
