"""A whole node under test: the real supervisor, its real child processes, and callers over mutual TLS."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11

from admin.pki.key_files import write_private
from tests.support.mutual_tls import Authority

ROOT = Path(__file__).parents[2]
WITHIN = 45.0  # seconds: against hanging only
SECRET = bytes(range(32))
TRIVIAL = ("tests.support.node_children", "tests.support.node_children")
MAIN = """
import sys
from pathlib import Path
from admin.pki.key_files import write_private
from engine.config import load_node_config
from engine.errors import Fault
from engine.node.supervisor import Modules, run_node
path = Path(sys.argv[1])
try:
    run_node(load_node_config(path), path, Modules(*sys.argv[2:]))
except Fault as fault:
    sys.exit(fault.text)
"""


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait for the processes under test; they are not ours to await."""
    deadline = time.monotonic() + WITHIN
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Running:
    """A node under test."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        environment: dict[str, str],
        *,
        modules: tuple[str, ...] = TRIVIAL,
        launch: bool = True,
        **settings: Any,
    ) -> None:
        self.authority = authority
        self.runtime = directory / "run"
        self.config = directory / "node.toml"
        self.files = authority.issue("server")
        self.key = directory / "secret.key"
        write_private(self.key, SECRET)
        self.config.write_text(self.settings(directory, **settings))
        self.log = (directory / "log").open("wb")
        self.client = authority.client_context(authority.issue("caller"))
        self._modules = modules
        self._refusal = directory / "refusal"
        self._environment = {**os.environ, "CCS_TEST_REFUSAL": str(self._refusal), **environment}
        if launch:
            self.launch()

    def launch(self, *arguments: str) -> None:
        """Start the processes. arguments: to Python; without, the node is run as its main does."""
        self.process = subprocess.Popen(
            [sys.executable, *(arguments or ("-c", MAIN, str(self.config), *self._modules))],
            cwd=ROOT,
            stderr=self.log,
            stdout=self.log,
            env=self._environment,
            process_group=0,
        )

    def settings(
        self,
        directory: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        drain: float = 5.0,
        workers: int = 2,
        map_size: int = 1 << 28,
    ) -> str:
        certificate, key = self.files
        return f"""
node-id = "node-a"
runtime-directory = "{self.runtime}"
workers = {workers}
drain-timeout = {drain}
[listener]
port = {port}
[listener.tls]
certificate-file = "{certificate}"
key-file = "{key}"
client-ca-file = "{self.authority.file}"
[status]
host = "{host}"
port = 0
[feed]
url = "https://localhost:1/feed"
ca-file = "{self.authority.file}"
certificate-file = "{certificate}"
key-file = "{key}"
mac-key-files = ["{directory / "secret.key"}"]
meter-key-file = "{directory / "secret.key"}"
[replica]
directory = "{directory / "replica"}"
map-size = {map_size}
[tokens]
issuer = "https://localhost:8450"
"""

    def change_key(self, key: bytes = SECRET[::-1]) -> None:
        """What stands in the feed's key file; any other length than 32 is refused."""
        self.key.write_bytes(key)

    def refuse_starts(self, sentence: str) -> None:
        """Let trivial children that start from now on say that they cannot; "" = let them."""
        self._refusal.write_text(sentence)

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """One of its processes."""
        assert pid in self.pids()
        os.kill(pid, number)

    def described(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.runtime / "node.json").read_bytes())
        except OSError:
            return {}
        return found

    def wait_ready(self, workers: int = 2) -> "Running":
        """All its children serve; the feeder too, which would read at its start what a test changes after this."""
        eventually(lambda: self.process.poll() is not None or (self.workers_run(workers) and self.feeder_runs()))
        assert self.process.poll() is None, self.said()
        return self

    def wait_replaced(self, victim: int, workers: int = 2) -> None:
        """Another process has the place of one that was killed."""
        eventually(lambda: victim not in self.pids() and self.workers_run(workers))

    def workers_run(self, count: int) -> bool:
        return sum(name.startswith("worker") for name in self._running()) == count

    def feeder_runs(self) -> bool:
        return "feeder" in self._running()

    def _running(self) -> list[str]:
        children = self.status("/statusz")[1].get("children", []) if self.described() else []
        return [child["name"] for child in children if child["life"] == "running"]

    def pids(self) -> list[int]:
        pids = self.described()["pids"]
        return [pids["node"], pids["feeder"], *pids["workers"]]

    def said(self) -> str:
        return Path(self.log.name).read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log, and of its children's, that tell of this."""
        lines = [line for line in self.said().splitlines() if line.startswith("{") and line.endswith("}")]
        return [found for line in lines if (found := json.loads(line))["event"] == name]

    def supervisor_events(self, name: str) -> list[dict[str, Any]]:
        """Only the supervisor's."""
        return [found for found in self.events(name) if found["role"] == "supervisor"]

    def status(self, page: str) -> tuple[int, dict[str, Any]]:
        status, body = self.get(page)
        return status, json.loads(body)

    def get(self, page: str) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.described()['ports']['status']}{page}"
        try:
            with urllib.request.urlopen(url, timeout=WITHIN) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def connect(self) -> "Caller":
        return Caller(self.described()["ports"]["introspection"], self.client)

    def stop(self) -> None:
        """Kill what this test started, by pid."""
        for pid in {self.process.pid, *(self.pids() if self.described() else [])}:
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Caller:
    """One keep-alive connection over mutual TLS."""

    def __init__(self, port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        plain = socket.create_connection((host, port), timeout=WITHIN)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")

    def send(self, target: bytes = b"/") -> None:
        self.socket.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")

    def receive(self) -> tuple[int, bytes]:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        return status, body

    def ask(self) -> int:
        """Returns the pid of the worker that answered."""
        self.send()
        status, body = self.receive()
        assert status == 200
        return int(body)

    def close(self) -> None:
        self.socket.close()


Start = Callable[..., Running]
Connect = Callable[[Running], Caller]
