"""`ccs guard` as a process, with a service that is not there: it starts, answers, reloads, ends, comes back."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admin.cli.free_ports import free_port
from tests.engine.guard.test_requests import ASKED
from tests.support.mutual_tls import Authority
from tests.support.sandbox import ROOT, SOON, eventually

LOOPBACK = "127.0.0.1"
OLD, NEW = "0123456789abcdef" * 2, "fedcba9876543210" * 2


class Guard:
    """One guard's files, and its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.status_port = free_port(LOOPBACK), free_port(LOOPBACK)
        certificate, key = Authority(folder).issue("edp-1")
        (folder / "store.key").write_bytes(os.urandom(32))
        (folder / "secret").write_text(OLD)
        for private in (key, folder / "store.key", folder / "secret"):
            private.chmod(0o600)
        self.settings = folder / "guard.toml"
        self.settings.write_text(
            f'client-id = "edp-1"\nissuer = "https://localhost:{free_port(LOOPBACK)}"\n'
            f'[service]\naddresses = ["https://localhost:{free_port(LOOPBACK)}"]\nmachine-url = "https://localhost:{free_port(LOOPBACK)}"\n'
            f'ca-file = "authority.pem"\ncertificate-file = "{certificate.name}"\nkey-file = "{key.name}"\n'
            '[store]\ndirectory = "store"\nkey-file = "store.key"\n'
            f'[sidecar]\nsocket = "guard.sock"\nport = {self.port}\nsecret-file = "secret"\n'
            f"status-port = {self.status_port}\n"
        )
        self.log = folder / "guard.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Guard":
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "admin.cli", "guard", "--config", str(self.settings)]
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, process_group=0)
        eventually(self._serves)
        return self

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.call("GET", "/v1/status")[0] == 200
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(SOON)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("guard", timeout=SOON)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(SOON)
        try:
            connection.sock.connect(str(self.folder / "guard.sock"))
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def status_with(self, secret: str) -> int:
        return self.get(self.port, "/v1/status", {"Authorization": f"Bearer {secret}"})[0]

    def get(self, port: int, path: str, fields: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
        try:
            connection.request("GET", path, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log, each whole, that tell of this."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        lines = (json.loads(line) for line in whole.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    def another(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ccs` with other words, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "admin.cli", *words],
            cwd=ROOT, capture_output=True, text=True, timeout=SOON, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    made = Guard(tmp_path_factory.mktemp("guard")).start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_nobody_is_told_yes_where_nobody_can_be_asked_and_nothing_is_known(guard: Guard) -> None:
    status, verdict = guard.call("POST", "/v1/check", ASKED)
    assert (status, verdict["allowed"], verdict["reason"]) == (200, False, "unknown_in_outage")
    assert guard.call("GET", "/v1/status")[1]["outage_since"] is not None
    assert guard.call("GET", f"/v1/evidence/{verdict['evidence_id']}")[0] == 404, (
        "of what was never known nothing is kept"
    )
    assert ASKED["token"] not in guard.log.read_text()


def test_supervisors_and_scrapers_need_no_secret(guard: Guard) -> None:
    assert guard.get(guard.status_port, "/readyz", {})[0] == 200
    text = guard.get(guard.status_port, "/metrics", {})[1]
    assert b"ccs_guard_falls_back 0.0" in text
    assert b"ccs_guard_calls_total" in text
    assert guard.get(guard.status_port, "/v1/status", {})[0] == 404
    assert guard.get(guard.status_port, "/metrics", {"Origin": "https://evil.example"})[0] == 403


def test_a_reload_takes_the_new_secret_and_keeps_what_it_has_when_that_is_none(guard: Guard) -> None:
    assert (guard.status_with(OLD), guard.status_with(NEW)) == (200, 401)
    (guard.folder / "secret").write_text("short")
    guard.signal(signal.SIGHUP)
    eventually(lambda: bool(guard.events("reload_failed")))
    (refused,) = guard.events("reload_failed")
    assert (refused["kept"], refused["taken"]) == ("secret", ["introspection", "events", "reports"])
    assert guard.status_with(OLD) == 200
    (guard.folder / "secret").write_text(NEW)
    guard.signal(signal.SIGHUP)
    eventually(lambda: guard.status_with(NEW) == 200)
    assert guard.status_with(OLD) == 401
    eventually(lambda: bool(guard.events("reloaded")))
    assert len(guard.events("reloaded")) == 1, "the round before failed"


def test_a_second_guard_beside_it_is_refused_in_one_sentence(guard: Guard) -> None:
    done = guard.another("guard", "--config", str(guard.settings))
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "another program listens" in done.stderr
    beside = guard.folder / "beside.toml"
    text = (
        guard.settings.read_text()
        .replace("guard.sock", "beside.sock")
        .replace(str(guard.port), str(free_port(LOOPBACK)))
    )
    beside.write_text(text.replace(str(guard.status_port), str(free_port(LOOPBACK))))
    done = guard.another("guard", "--config", str(beside))
    assert done.returncode == 5, done.stderr
    assert "in use" in done.stderr.splitlines()[-1]
    assert guard.call("GET", "/v1/status")[0] == 200


def test_status_says_what_is_wrong(guard: Guard) -> None:
    done = guard.another("guard", "status", "--config", str(guard.settings))
    assert done.returncode == 3
    assert "edp-1" in done.stdout
    assert done.stderr.startswith("ccs: ")


def test_it_comes_back_after_kill_and_ends_when_told(guard: Guard) -> None:
    guard.call("POST", "/v1/check", ASKED)
    since = guard.call("GET", "/v1/status")[1]["outage_since"]
    assert since is not None
    guard.signal(signal.SIGKILL)
    assert guard.ended() == -signal.SIGKILL
    assert (guard.folder / "guard.sock").exists()
    guard.start()
    assert guard.call("GET", "/v1/status")[1]["outage_since"] == since, "the outage is the same one"
    guard.signal(signal.SIGTERM)
    assert guard.ended() == 0
    assert not (guard.folder / "guard.sock").exists()


def test_a_receiver_that_cannot_listen_is_told_at_the_start(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        receiver = f'[events.receiver]\nport = {port}\ncertificate-file = "edp-1.pem"\nkey-file = "edp-1.key"\n'
        guard.settings.write_text(guard.settings.read_text() + receiver + 'client-ca-file = "authority.pem"\n')
        done = guard.another("guard", "--config", str(guard.settings))
    assert done.returncode == 3
    assert f"port {port}" in done.stderr.splitlines()[-1]
