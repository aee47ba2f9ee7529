"""A whole sandbox, started as a user starts it: real processes, real TLS, real Redis, on free ports."""

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
START_WITHIN = 90.0
SOON = 45.0  # generous: these are bounds against hanging, not claims about speed
PORTS = ("introspection", "status", "public", "machine", "console", "pusher-status")
FREE_PORTS = "".join(f"{name}-port = 0\n" for name in PORTS)


class Running:
    """`ccs up` as a child process."""

    def __init__(
        self, state: Path, settings: str = "", *, consents: int = 50, workers: int = 2, patience: float = START_WITHIN
    ) -> None:
        self.state = state
        self._patience = patience
        self._config = state.parent / f"{state.name}.toml"
        self._config.write_text(FREE_PORTS + f"consents = {consents}\nworkers = {workers}\n" + settings)
        self.output = state.parent / f"{state.name}.out"
        self.process: subprocess.Popen[bytes] | None = None
        self._callers: list[Caller] = []

    def start(self) -> "Running":
        self.launch()
        assert self.process is not None
        eventually(lambda: "Ready." in self.said_since_start() or self._ended(), self._patience)
        assert self.process.poll() is None, self.output.read_text()
        return self

    def launch(self) -> None:
        """Start without waiting for it to be ready."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "admin.cli", "up", "--state", str(self.state), "--config", str(self._config)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip

    def said_since_start(self) -> str:
        return self.output.read_text().rsplit("  stopped", 1)[-1]

    def _ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    @property
    def about(self) -> dict[str, Any]:
        """`sandbox.json` as it stands now."""
        found: dict[str, Any] = json.loads((self.state / "sandbox.json").read_text())
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.close_callers()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(START_WITHIN)

    def ccs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A client command on this sandbox."""
        return subprocess.run(
            [sys.executable, "-m", "admin.cli", *arguments, "--state", str(self.state)],
            cwd=ROOT, capture_output=True, text=True, timeout=START_WITHIN, check=False,
        )  # fmt: skip

    def tokens(self, count: int = 1, *options: str) -> list[dict[str, Any]]:
        done = self.ccs("sandbox", "tokens", "--count", str(count), "--out", "-", *options)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def context(self, client: str) -> ssl.SSLContext:
        """Works while the sandbox is stopped as well."""
        context = ssl.create_default_context(cafile=str(self.state / "pki/ca.pem"))
        pki = self.state / "pki"
        context.load_cert_chain(pki / f"{client}.pem", pki / f"{client}.key")
        return context

    def caller(self, client: str = "edp-1") -> "Caller":
        return self._connected(self.about["introspection_endpoint"], client)

    def machine(self, client: str = "operator-1") -> "Caller":
        return self._connected(self.about["admin_mtls_url"], client)

    def _connected(self, url: str, client: str) -> "Caller":
        caller = Caller(url, self.context(client))
        self._callers.append(caller)
        return caller

    def close_callers(self) -> None:
        """Close every connection that was handed out."""
        while self._callers:
            self._callers.pop().close()

    def node_status(self) -> dict[str, Any]:
        url = urlsplit(self.about["node_status_url"])
        assert url.hostname
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=SOON)
        try:
            connection.request("GET", "/statusz")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()


class Caller:
    """One keep-alive connection of a participant."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._path = parts.path
        self.connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=SOON)

    def introspect(self, token: str, **context: str) -> tuple[int, dict[str, Any]]:
        body = urlencode({"token": token, **context})
        self.connection.request("POST", self._path, body, {"content-type": "application/x-www-form-urlencoded"})
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        raw = None if body is None else json.dumps(body)
        self.connection.request(method, path, raw, {"content-type": "application/json", **(headers or {})})
        answer = self.connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None

    def close(self) -> None:
        self.connection.close()


def eventually(holds: Callable[[], bool], within: float = SOON) -> None:
    """Wait until it holds; fail when it does not within the bound."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


@pytest.fixture
def sandbox(shared_sandbox: Running) -> Iterator[Running]:
    """One sandbox for the whole run. Who breaks a part of it waits until it is whole again."""
    yield shared_sandbox
    shared_sandbox.close_callers()


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The processes behind `sandbox`."""
    running = Running(tmp_path_factory.mktemp("sandbox") / "var").start()
    yield running
    assert running.stop() == 0, running.output.read_text()
