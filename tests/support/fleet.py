"""More engine nodes beside the one of a sandbox: real ones, each with a certificate, settings and a replica of its own.

They are registered through the sandbox's API, as an operator would, and live on its Redis and its feed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from admin.pki.authority import Authority
from engine.clock import UnixTime
from engine.consent.records import ClientId
from tests.support.sandbox import ROOT, START_WITHIN, Caller, Running, eventually, gone, kill


class FleetNode:
    """One node; `start` it, and `stop` it at the end, whatever state it is in."""

    def __init__(self, sandbox: Running, name: str, *, workers: int = 1) -> None:
        self.name = name
        self.directory = sandbox.state.parent / name
        self.directory.mkdir()
        self._sandbox = sandbox
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._ways: dict[str, str] = {}

    def register(self) -> "FleetNode":
        """A certificate by the sandbox's authority, and a participant of role node."""
        issued = Authority.open(self._sandbox.state / "pki").issue_client(ClientId(self.name), _now())
        issued.write(self.directory / "node.pem", self.directory / "node.key")
        form = {
            "client_id": self.name,
            "role": "node",
            "certificates": [_base64_der(self.directory / "node.pem")],
            "organisation": {"name": self.name},
        }
        operator = self._sandbox.machine()
        status, said = operator.call("POST", "/participants", form, {"idempotency-key": str(uuid4())})
        assert status == 201, said
        return self

    def start(self, env: Mapping[str, str] = {}) -> "FleetNode":
        """Start its processes; it is not waited for."""
        self._write_settings()
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "admin.cli", "node", "--config", str(self.directory / "node.toml")],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env={**os.environ, **env},
            )  # fmt: skip
        return self

    def wait_current(self) -> "FleetNode":
        eventually(lambda: self.is_in("current"), START_WITHIN)
        return self

    def clone(self, name: str) -> "FleetNode":
        """Another machine made from a copy of this one's disk, as it is at this moment: same name, same files."""
        twin = FleetNode(self._sandbox, name, workers=self._workers)
        twin.name = self.name
        for file in ("node.pem", "node.key"):
            shutil.copy(self.directory / file, twin.directory)
        shutil.copytree(self.directory / "replica", twin.directory / "replica", symlinks=True)
        return twin

    def _write_settings(self) -> None:
        text = (self._sandbox.state / "config/node.toml").read_text()
        own = {
            "node-id": f'"{self.name}"',
            "runtime-directory": f'"{self.directory / "run"}"',
            "workers": f"{self._workers}",
        }
        for name, value in own.items():
            text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
            assert count == 1, name
        text = re.sub(r"(?m)^port = \d+$", "port = 0", text)
        for name in ("replica", "answer-keys"):
            text = text.replace(f'directory = "{self._sandbox.state / name}"', f'directory = "{self.directory / name}"')
        was = self._sandbox.state / "pki/node-1"
        text = text.replace(f'"{was}.pem"', f'"{self.directory / "node.pem"}"')
        text = text.replace(f'"{was}.key"', f'"{self.directory / "node.key"}"')
        for was_at, now_at in self._ways.items():
            assert was_at in text
            text = text.replace(was_at, now_at)
        (self.directory / "node.toml").write_text(text)

    def go_by(self, *, redis: int, feed: int) -> "FleetNode":
        """Reach Redis and the feed by these ports of loopback, before it is started."""
        about = self._sandbox.about
        self._ways = {
            about["redis_url"]: f"redis://127.0.0.1:{redis}",
            about["feed_url"]: f"https://localhost:{feed}/feed",
        }
        return self

    @property
    def about(self) -> dict[str, Any]:
        """Its ports and process ids; {} before it has told them."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "run/node.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    @property
    def pids(self) -> list[int]:
        """The supervisor's and its children's."""
        pids = self.about.get("pids", {})
        return [pid for pid in (pids.get("node", 0), pids.get("feeder", 0), *pids.get("workers", ())) if pid]

    def get(self, page: str) -> tuple[int, bytes]:
        """One of its status addresses; status 0 where nobody answers."""
        port = self.about.get("ports", {}).get("status", 0)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def is_in(self, state: str) -> bool:
        status, body = self.get("/readyz")
        return bool(status) and json.loads(body)["state"] == state

    def endpoint(self) -> str:
        return f"https://localhost:{self.about['ports']['introspection']}/introspect"

    def caller(self, client: str = "edp-1") -> Caller:
        return Caller(self.endpoint(), self._sandbox.context(client))

    def introspect(self, token: str) -> dict[str, Any]:
        """One question on a connection of its own: the answer's members and `status`, 0 where nobody answers."""
        try:
            caller = self.caller()
            try:
                status, answer = caller.introspect(token)
            finally:
                caller.close()
        except (OSError, KeyError):
            return {"status": 0}
        return {"status": status, **answer}

    def freeze(self) -> None:
        for pid in self.pids:
            kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.pids:
            kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill its processes, frozen or not."""
        if self._process is None:
            return
        for pid in {self._process.pid, *self.pids}:
            if not gone(pid):
                kill(pid)
        self._process.wait(START_WITHIN)
        eventually(lambda: all(gone(pid) for pid in self.pids))


def _now() -> UnixTime:
    return UnixTime(int(time.time()))


def _base64_der(file: Path) -> str:
    """What stands between the lines of a PEM file."""
    return "".join(line for line in file.read_text().splitlines() if "-----" not in line)
