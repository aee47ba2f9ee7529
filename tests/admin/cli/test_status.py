"""`ccs status`: what a person reads, and the exit code a script goes by."""

import io
import json
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import trio
from rich.console import Console

from admin.cli import status as command
from admin.cli.running import NotRunning
from engine.config import BadConfig
from engine.errors import Fault, Kind
from engine.pusher.service_calls import holder_named
from tests.support.admin_service import Site
from tests.support.pki import Pki

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

AWAY = NotRunning("nobody there")


def shown(node: dict[str, Any], pushing: dict[str, Any] | Fault = AWAY, *, colours: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=colours, color_system="standard" if colours else None)
    command.show({"redis": True, "node": False}, node, pushing, console)
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


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a node that says it is current."""
    monkeypatch.setattr(Page, "said", NODE)
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.handle_request).start()
        yield f"http://127.0.0.1:{server.server_port}"


def folder(directory: Path, pki: Pki, node: str, pid: int = 1, operator: str = "operator-1", **about: str) -> Path:
    """A sandbox's folder that leads to the node and, with `admin_mtls_url`, to a machine API."""
    files = pki.client(operator)
    client = {"client_id": operator, "certificate_file": str(files.certificate_file), "key_file": str(files.key_file)}
    said = dict.fromkeys(("introspection_endpoint", "issuer", "admin_url", "console_url", "feed_url", "redis_url"), "x")
    said |= {"admin_mtls_url": "https://localhost:1", "ca_file": str(pki.ca_file), "node_status_url": node, **about}
    said |= dict.fromkeys(("node_config", "admin_config"), "x")
    people = {"edps": [], "atps": [], "operator": client, "node": client, "pids": {"node": pid}}
    (directory / "sandbox.json").write_text(json.dumps(said | people))
    return directory


async def asked(state: Path, *, json_output: bool = True) -> None:
    """The command as it is, beside the service that it asks."""
    await trio.to_thread.run_sync(partial(command.status, state=state, json_output=json_output))


def url_of(site: Site) -> str:
    return f"https://localhost:{site.port}"


@pytest.mark.parametrize(
    ("state", "pid", "fault"),
    [("current", 1, None), ("last_known", 1, "not current: last_known"), ("current", 2**22 + 1, "runs: node")],
)
async def test_exit_says_whether_everything_runs_and_is_current(
    site: Site, pki: Pki, node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    state: str, pid: int, fault: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(Page, "said", NODE | {"state": state})
    there = folder(tmp_path, pki, node, pid, admin_mtls_url=url_of(site))
    if fault is None:
        await asked(there)
    else:
        with pytest.raises(NotRunning, match=fault):
            await asked(there)


async def test_what_the_service_says_of_its_pushes_is_part_of_the_json(
    site: Site, pki: Pki, node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await site.outbox.lease(holder_named("pusher-1", b"12345678"), None)
    await asked(folder(tmp_path, pki, node, admin_mtls_url=url_of(site)))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["processes"], told["node"]["node_id"]) == ({"node": True}, "node-a")
    assert told["pushing"]["lease"]["pusher"] == "pusher-1"
    assert told["pushing"]["receivers"] == {"well": 0, "behind": 0, "unreached": 0, "suspended": 0}
    assert "pushing_fault" not in told


async def test_a_service_that_is_away_hides_nothing_else(
    pki: Pki, node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotRunning, match="does not answer"):
        await asked(folder(tmp_path, pki, node))
    told = json.loads(capsys.readouterr().out)
    assert (told["node"]["state"], told["pushing"]) == ("current", None)
    assert "https://localhost:1 does not answer" in told["pushing_fault"]


async def test_who_is_no_operator_sees_the_rest_and_why(
    site: Site, pki: Pki, node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Fault) as caught:
        await asked(folder(tmp_path, pki, node, operator="edp-1", admin_mtls_url=url_of(site)), json_output=False)
    assert caught.value.kind is Kind.FORBIDDEN
    out = capsys.readouterr().out
    assert "worker-1" in out
    assert "not known" in row(out, "pusher")
    assert caught.value.text.split()[0] in row(out, "why")


async def test_a_certificate_that_is_gone_hides_nothing_else(
    site: Site, pki: Pki, node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadConfig, match="cannot be used"):
        await asked(folder(tmp_path, pki, node, admin_mtls_url=url_of(site), ca_file=str(tmp_path / "none.pem")))
    told = json.loads(capsys.readouterr().out)
    assert (told["node"]["state"], told["pushing"]) == ("current", None)


def test_nobody_on_the_status_address(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no sandbox"):
        command.status(state=tmp_path)
