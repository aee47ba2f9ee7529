"""An installation whose every part can be taken away: real Redis, admin application and engine node, and EDPs that
never stop asking. The node reaches Redis and the feed service over relays, which can fail as networks do.

Everything that any EDP is told is held against the promises; what a test says about an outage is held against it too.
"""

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from admin.cli.machine_client import MachineClient
from admin.cli.running import load_sandbox
from admin.cli.sandbox_identities import make_identities
from admin.cli.seed import registrations
from admin.cli.state_folder import SandboxConfig, StateFolder, settle_ports
from admin.cli.up import answers
from admin.cli.up_settings import Addresses, describe, write_admin_settings, write_node_settings
from admin.ledger.presence import SILENT_AFTER, WAIT_OUT
from engine.decision.freshness import MAX_SILENCE
from engine.feed.redis_names import question_key
from tests.support.relay import Relay
from tests.support.sandbox import ROOT, SOON, Caller, Running, eventually, gone
from tests.support.valkey import Valkey

KNOWING, PLAIN = "edp-1", "edp-2"  # registered as handling `last_known`, and not
CURRENT, LAST_KNOWN, INACTIVE, TURNED_AWAY, FAILED = "current", "last_known", "inactive", "503", "failed"
ACKNOWLEDGED, WAITED_OUT = "effective, acknowledged", "effective, waited_out"
GIVE_UP = 2.5  # seconds an EDP waits for an answer
BEYOND_SILENCE = MAX_SILENCE + 0.4  # an outage of this length shows whether something carries the node through


class Service:
    """A process of the installation that can be killed, stopped, and started again."""

    def __init__(self, name: str, config: Path, log: Path, environment: dict[str, str] | None = None) -> None:
        self._argv = [sys.executable, "-m", "admin.cli", name, "--config", str(config)]
        self._log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
                process_group=0,
            )  # fmt: skip

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.alive():
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self.alive():
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def said(self) -> str:
        return self._log.read_text(errors="replace")


class Site:
    """One installation; `whole` mends whatever a test has broken. ledger_url: "" = SQLite."""

    def __init__(self, directory: Path, ledger_url: str = "", workers: int = 2) -> None:
        self.state = directory / "var"
        self.folder = StateFolder(self.state)
        self.folder.open()
        free = SandboxConfig(
            introspection_port=0, status_port=0, public_port=0, machine_port=0, console_port=0, pusher_status_port=0
        )
        chosen = msgspec.structs.replace(free, workers=workers, consents=0, ledger_url=ledger_url)
        self.settings = settle_ports(chosen)
        self.at = Addresses.of(self.settings)
        make_identities(self.folder, new=True)
        self._short = tempfile.TemporaryDirectory(prefix="ccs-")
        self.redis = Valkey(Path(self._short.name) / "v")
        self.redis_way = Relay(self.redis_socket)
        self.feed_way = Relay(self.settings.machine_port)
        self._wall = directory / "wall"
        self.set_wall_wrong_by(0.0)
        self._known_feeder, self._new_feeder_at = 0, 0.0
        self.node_config = self._write_settings()
        self._node_settings = self.node_config.read_text()
        describe(self.folder, self.settings, self.redis.url, {})
        clock = {"PYTHONPATH": str(ROOT / "tests/support/wall_clock"), "CCS_TEST_WALL": str(self._wall)}
        self.admin = Service("admin", self.folder.settings / "admin.toml", directory / "admin.log")
        self.node = Service("node", self.node_config, directory / "node.log", clock)
        self._people = Running(self.state, consents=0)  # for its certificates and connections
        try:
            self.start_admin()
            self._register()
            self.start_node()
        except BaseException:
            self.close()
            raise

    @property
    def redis_socket(self) -> Path:
        return Path(self.redis.url.removeprefix("unix://"))

    def _write_settings(self) -> Path:
        write_admin_settings(self.folder, self.settings, self.redis.url)
        path = write_node_settings(self.folder, self.settings, f"redis://127.0.0.1:{self.redis_way.port}")
        text = path.read_text()
        direct, relayed = f"{self.at.machine}/feed", f"https://localhost:{self.feed_way.port}/feed"
        assert direct in text
        path.write_text(text.replace(direct, relayed))
        return path

    def change_node_settings(self, old: str = "", new: str = "") -> None:
        """For its next start; nothing = as they were."""
        assert old in self._node_settings
        self.node_config.write_text(self._node_settings.replace(old, new, 1) if old else self._node_settings)

    def _register(self) -> None:
        with MachineClient(load_sandbox(self.state)) as client:
            for form in registrations(client.sandbox):
                if form["role"] == "pusher":
                    continue  # the settings of the admin application name it
                if form["client_id"] == PLAIN:
                    form["handles_last_known"] = False
                client.call("POST", "/participants", form)

    def start_admin(self) -> None:
        self.admin.start()
        jwks, authority = f"{self.at.public}/jwks", self.folder.pki / "ca.pem"
        eventually(lambda: not self.admin.alive() or answers(jwks, authority), 60)
        assert self.admin.alive(), self.admin.said()[-2000:]

    def start_node(self, ready: str = "/readyz/current") -> None:
        self.node.start()
        eventually(lambda: not self.node.alive() or answers(f"{self.at.status}{ready}"), 60)
        assert self.node.alive(), self.node.said()[-2000:]

    def forget_replica(self) -> None:
        """The node begins anew, from a snapshot."""
        self.node.stop()
        shutil.rmtree(self.state / "replica")
        self.start_node()

    def restart_node(self, ready: str = "/readyz/current") -> None:
        """As an operator does: in order."""
        self.node.stop()
        self.start_node(ready)

    def effects(self) -> set[str]:
        """How a revocation comes into effect at a node that works, as `Revoked.told`.

        One whose feeder is new has left another instance behind, of which nobody hears, until it is struck off.
        """
        if self.feeder != self._known_feeder:
            self._known_feeder, self._new_feeder_at = self.feeder, time.monotonic()
        lingers = time.monotonic() - self._new_feeder_at < SILENT_AFTER + WAIT_OUT + 1.0
        return {ACKNOWLEDGED, WAITED_OUT} if lingers else {ACKNOWLEDGED}

    def whole(self) -> None:
        """Mend everything and wait until the node is current by way of Redis."""
        self.set_wall_wrong_by(0.0)
        self.redis_way.upstream = self.redis_socket
        for relay in (self.redis_way, self.feed_way):
            relay.flow()
        self.redis.resume()
        if gone(self.redis._server.pid):
            self.redis.restart()
        self.redis.call("CONFIG", "SET", "maxmemory", "0")
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.admin.resume()
        if not self.admin.alive():
            self.start_admin()
        if self.node_config.read_text() != self._node_settings:
            self.change_node_settings()
            self.node.stop()
        if not self.node.alive():
            self.start_node()
        self.wait_state(CURRENT)
        self.wait_asking_redis()

    def close(self) -> None:
        for relay in (self.redis_way, self.feed_way):
            relay.flow()
        self._people.close_callers()
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.node.stop()
        self.admin.stop()
        self.redis.stop()
        for relay in (self.redis_way, self.feed_way):
            relay.close()
        self.folder.close()
        self._short.cleanup()

    def set_wall_wrong_by(self, seconds: float) -> None:
        """Set the wall clock of the node's processes wrong; at once, also for those that run."""
        if not self._wall.exists():
            self._wall.write_bytes(struct.pack("d", seconds))
        with self._wall.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    def described(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder.run / "node" / "node.json").read_bytes())
        except (OSError, ValueError):
            return {"pids": {"workers": [], "feeder": 0}}
        return found

    @property
    def feeder(self) -> int:
        pid: int = self.described()["pids"]["feeder"]
        return pid

    @property
    def replica_bytes(self) -> int:
        """The size of the replica's file."""
        return (self.state / "replica/current/data.mdb").stat().st_size

    @property
    def workers(self) -> list[int]:
        pids: list[int] = self.described()["pids"]["workers"]
        return pids

    def children(self) -> list[int]:
        return [pid for pid in (self.feeder, *self.workers) if pid]

    def page(self, path: str) -> tuple[int, Any]:
        """A status page of the node."""
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.status_port, timeout=SOON)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def readyz(self) -> tuple[int, str]:
        status, body = self.page("/readyz")
        return status, body["state"]

    def wait_state(self, state: str) -> None:
        eventually(lambda: self.readyz()[1] == state)

    def wait_asking_redis(self) -> None:
        """Wait until the node asks its questions through Redis (again)."""
        key = question_key("node-1")
        eventually(lambda: (seen := self.redis.call("GET", key)) is not None and self._changes(key, seen))

    def _changes(self, key: bytes, seen: bytes) -> bool:
        time.sleep(0.15)
        now = self.redis.call("GET", key)
        return now is not None and now != seen

    def position(self) -> int:
        applied: int = self.page("/statusz")[1]["applied"]
        return applied

    def caller(self, client: str) -> Caller:
        return Caller(f"{self.at.introspection}/introspect", self._people.context(client))

    @contextlib.contextmanager
    def connected(self, client: str) -> Iterator[Caller]:
        """A connection for the block."""
        caller = self.caller(client)
        try:
            yield caller
        finally:
            caller.close()

    def metric(self, name: str) -> float:
        """A figure of the node without labels."""
        url = f"{self.at.status}/metrics"
        with urllib.request.urlopen(url, timeout=SOON) as page:  # noqa: S310 - our own address
            return _figure(page.read().decode(), f"{name} ")

    def tokens(self, edp: str, count: int = 1) -> list[dict[str, Any]]:
        """Fresh tokens, each of a fresh consent."""
        with MachineClient(load_sandbox(self.state)) as client:
            lines = client.stream_lines("/sandbox/tokens", {"count": count, "edp": edp, "atp": "atp-1"})
            return [json.loads(line) for line in lines]

    def revoke(self, consent_id: str, patience: float = 15.0) -> "Revoked":
        """As a consumer's page does it: wait for the answer, whatever it is. patience: seconds of the caller."""
        wait = max(0.0, patience - 5.0)
        operator = Caller(self.at.machine, self._people.context("operator-1"))
        operator.connection.timeout = patience
        path = f"/consents/{consent_id}/revoke?wait={wait:.1f}"
        try:
            status, body = operator.call("POST", path, {"reason": "withdrawn"}, {"idempotency-key": str(uuid4())})
            return Revoked(status, body, time.monotonic())
        except (OSError, http.client.HTTPException):
            return Revoked(0, {}, time.monotonic())
        finally:
            operator.close()

    def feed_checks(self) -> float:
        """How many checks over HTTPS the admin application has answered since its start."""
        context, url = ssl.create_default_context(cafile=self.folder.pki / "ca.pem"), f"{self.at.console}/metrics"
        with urllib.request.urlopen(url, context=context, timeout=SOON) as page:  # noqa: S310 - our own address
            return _figure(page.read().decode(), 'ccs_feed_calls_total{call="check"} ')


def _figure(text: str, beginning: str) -> float:
    found = [line for line in text.splitlines() if line.startswith(beginning)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


class Revoked(msgspec.Struct, frozen=True):
    """What came of a revoke call. status: 0 = no answer. at: when, on the monotonic clock."""

    status: int
    body: dict[str, Any]
    at: float

    @property
    def told(self) -> str:
        """`effective, acknowledged`, `recorded, pending`, or the code of the refusal."""
        if self.status == 200:
            return f"{self.body['state']}, {self.body['how']}"
        return str(self.body.get("code", "no answer"))


class Seen(msgspec.Struct, frozen=True):
    """One answer. sent: on the monotonic clock."""

    edp: str
    consent_id: str
    sent: float
    outcome: str
    said: str


class Watch:
    """EDPs that ask and ask, and what they were told."""

    def __init__(self, site: Site, tokens: dict[str, list[dict[str, Any]]], connections: int = 1) -> None:
        self.site = site
        self.seen: list[Seen] = []
        self._ended: dict[str, tuple[float, bool]] = {}  # consent -> (when told, whether effective)
        self._standing: dict[str, list[dict[str, Any]]] = {edp: each[:1] for edp, each in tokens.items()}
        self._doomed = {edp: each[1:] for edp, each in tokens.items()}
        self._tokens = tokens
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(edp,), daemon=True) for edp in tokens for _ in range(connections)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()
        for edp in self._tokens:
            self.wait_told(edp, CURRENT)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, edp: str) -> None:
        caller = self._connect(edp)
        for each in itertools.cycle(self._tokens[edp]):
            if self._over.is_set():
                break
            sent = time.monotonic()
            outcome, said = self._outcome(caller, each["token"])
            self.seen.append(Seen(edp, each["consent_id"], sent, outcome, said))
            if outcome == FAILED:
                caller.close()
                caller = self._connect(edp)
            self._over.wait(0.01)
        caller.close()

    def _connect(self, edp: str) -> Caller:
        caller = self.site.caller(edp)
        caller.connection.timeout = GIVE_UP
        return caller

    def _outcome(self, caller: Caller, token: str) -> tuple[str, str]:
        try:
            status, body = caller.introspect(token)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return FAILED, repr(error)
        if status == 200:
            return (body["ccs_freshness"] if body["active"] else INACTIVE), ""
        return str(status), str(body)

    def revoke(self, edp: str = KNOWING, patience: float = 15.0) -> Revoked:
        """Revoke the next consent that is asked about; from then on its answers are judged."""
        consent_id = self._doomed[edp].pop(0)["consent_id"]
        told = self.site.revoke(consent_id, patience)
        if told.status == 200:
            self._ended[consent_id] = (told.at, told.body["state"] == "effective")
        return told

    def standing(self, edp: str, since: float, until: float = float("inf")) -> Counter[str]:
        """What an EDP was told of a consent that stands, by requests sent in a span of time."""
        ids = {each["consent_id"] for each in self._standing[edp]}
        return Counter(s.outcome for s in self.seen if s.consent_id in ids and since <= s.sent < until)

    def told(self, since: float, until: float = float("inf")) -> dict[str, set[str]]:
        """The kinds of answers to each EDP, of consents that stand."""
        return {edp: set(self.standing(edp, since, until)) for edp in self._tokens}

    def go_on(self, seconds: float) -> None:
        """Let the EDPs ask for a while: an outage has to last longer than what carries a node by itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)

    def wait_told(self, edp: str, outcome: str) -> float:
        """Wait until requests sent from now on are told this, three in a row; returns when that was."""
        since = time.monotonic()
        eventually(lambda: self._newest(edp, since) == [outcome] * 3)
        return time.monotonic()

    def _newest(self, edp: str, since: float) -> list[str]:
        ids = {each["consent_id"] for each in self._standing[edp]}
        return [s.outcome for s in self.seen[-200:] if s.consent_id in ids and s.sent >= since][-3:]

    def failures(self) -> list[Seen]:
        """What was neither answered nor refused in order."""
        return [s for s in self.seen if s.outcome not in (CURRENT, LAST_KNOWN, INACTIVE, TURNED_AWAY)]

    def wrong(self) -> list[Seen]:
        """Answers that break a promise: P1, a revocation's bound, `last_known` to an EDP that is not to have it."""
        return [s for s in self.seen if self._is_wrong(s)]

    def _is_wrong(self, seen: Seen) -> bool:
        if seen.outcome == LAST_KNOWN:
            return seen.edp == PLAIN
        if seen.outcome != CURRENT or seen.consent_id not in self._ended:
            return False
        at, effective = self._ended[seen.consent_id]
        return seen.sent > (at if effective else at + WAIT_OUT)


@contextlib.contextmanager
def asked(site: Site, doomed: int = 3, connections: int = 1) -> Iterator[Watch]:
    """EDPs that ask through the block; at its end everything they were told is judged."""
    watch = Watch(site, {edp: site.tokens(edp, 1 + doomed) for edp in (KNOWING, PLAIN)}, connections)
    watch.begin()
    try:
        yield watch
        for edp in (KNOWING, PLAIN):
            watch.wait_told(edp, CURRENT)  # every outage ends
    finally:
        watch.end()
    assert watch.wrong() == []
    assert all(sum(watch.standing(edp, 0).values()) >= 5 for edp in (KNOWING, PLAIN)), "hardly anything was asked"
