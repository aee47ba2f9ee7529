"""`ccs status`: what a person reads, and the exit code a script goes by."""

import io
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from rich.console import Console

from admin.cli import status as command
from admin.cli.running import NotRunning

CHILD = {
    "name": "worker-1",
    "life": "running",
    "pid": 4711,
    "restarts": 2,
    "failures": 0,
    "resident": 52 << 20,
    "last_fault": "the process ended by signal [SIGKILL]",
    "cpu_seconds": 12.34,
}
NODE: dict[str, Any] = {
    "node_id": "node-a",
    "ready": True,
    "draining": False,
    "state": "current",
    "incarnation": "0123456789abcdef",
    "applied": 1_200,
    "head": 1_207,
    "as_of": "2026-11-22T12:00:00Z",
    "last_known_until": "2026-11-23T12:00:00Z",
    "replica_fault": "",
    "ports": {"introspection": 8440, "status": 8441},
    "children": [CHILD, CHILD | {"name": "feeder", "life": "waiting", "pid": 0}],
}


def shown(node: dict[str, Any], *, colours: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=colours, color_system="standard" if colours else None)
    command.show({"redis": True, "node": False}, node, console)
    return text.getvalue()


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f" {name} " in line)


def test_each_child_is_a_row_of_its_own() -> None:
    text = shown(NODE)
    for part in ("running", "4711", "52 MB", "12.3 s", "the process ended by signal [SIGKILL]"):
        assert part in row(text, "worker-1")
    assert "waiting" in row(text, "feeder")
    assert "{" not in text


def test_how_far_behind_the_node_is() -> None:
    assert " 7 " in row(shown(NODE), "behind")
    assert " 0 " in row(shown(NODE | {"head": 1_200}), "behind")


@pytest.mark.parametrize(("state", "colour"), [("current", "32"), ("last_known", "33"), ("blind", "31")])
def test_freshness_has_its_colour(state: str, colour: str) -> None:
    assert f"\x1b[{colour}m{state}" in shown(NODE | {"state": state}, colours=True)


def test_a_node_without_a_replica() -> None:
    bare = {"applied": -1, "head": -1, "as_of": None, "last_known_until": None, "incarnation": "", "state": "blind"}
    text = shown(NODE | bare | {"replica_fault": "there is no replica"})
    assert "nothing" in row(text, "applied")
    assert "never" in row(text, "as of")
    assert "there is no replica" in text


class Page(BaseHTTPRequestHandler):
    """The status address of a made-up node."""

    said: ClassVar[dict[str, Any]] = NODE

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.said).encode())

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is not its log."""


@pytest.mark.parametrize(
    ("state", "pid", "fault"),
    [("current", 1, None), ("last_known", 1, "not current: last_known"), ("current", 2**22 + 1, "runs: node")],
)
def test_exit_says_whether_everything_runs_and_is_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, pid: int, fault: str | None
) -> None:
    monkeypatch.setattr(Page, "said", NODE | {"state": state})
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.handle_request).start()
        client = {"client_id": "x", "certificate_file": "x", "key_file": "x"}
        about = dict.fromkeys(("introspection_endpoint", "issuer", "admin_url", "admin_mtls_url", "console_url"), "x")
        about |= dict.fromkeys(("feed_url", "redis_url", "ca_file", "node_config", "admin_config"), "x")
        about |= {"node_status_url": f"http://127.0.0.1:{server.server_port}"}
        folder = about | {"edps": [], "atps": [], "operator": client, "node": client, "pids": {"node": pid}}
        (tmp_path / "sandbox.json").write_text(json.dumps(folder))
        if fault is None:
            command.status(state=tmp_path, json_output=True)
        else:
            with pytest.raises(NotRunning, match=fault):
                command.status(state=tmp_path, json_output=True)


def test_nobody_on_the_status_address(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no sandbox"):
        command.status(state=tmp_path)
