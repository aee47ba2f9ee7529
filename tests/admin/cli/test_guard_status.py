"""`ccs guard status` on a guard's real doors: what it shows, and when it says that something is wrong."""

import json
import re
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from admin.cli.guard import NoGuard, NotWell, WhichGuard, problem, show, status
from engine.errors import Fault
from engine.guard.config import Sidecar as SidecarConfig
from engine.guard.doors import bind
from engine.guard.sidecar import Sidecar
from engine.listener.serve import Limits, serve
from engine.telemetry.guard_health import (
    AddressHealth,
    EventsHealth,
    EvidenceHealth,
    MemoryHealth,
    PartHealth,
    statusz,
)
from engine.telemetry.host import SystemClock
from tests.support.guards import ToldHealth, ToldJudge

SETTINGS = """
client-id = "edp-1"
issuer = "https://ccs.example"
[service]
addresses = ["https://node.example"]
ca-file = "ca.pem"
certificate-file = "edp.pem"
key-file = "edp.key"
[store]
directory = "store"
key-file = "store.key"
"""


class Guard:
    """A sidecar that is served, its health, and where its settings stand."""

    def __init__(self, health: ToldHealth, socket: Path, by_socket: Path, by_port: Path) -> None:
        self.health = health
        self.socket = socket
        self.by_socket = by_socket
        self.by_port = by_port


@pytest.fixture
async def guard(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Guard]:
    health, secret, path = ToldHealth(), tmp_path / "secret", tmp_path / "guard.sock"
    secret.write_text("0123456789abcdef" * 2)
    secret.chmod(0o600)
    health.change(parts=(PartHealth("events", "running"),))
    with bind(SidecarConfig(socket=path, port=0, secret_file=secret)) as bound:
        for sockets, door in bound.doors:
            handler = Sidecar(ToldJudge(), door, health, lambda _evidence_id: None)
            await nursery.start(partial(serve, handler, sockets, None, Limits(), clock=SystemClock()))
        (tmp_path / "socket.toml").write_text(f'{SETTINGS}[sidecar]\nsocket = "guard.sock"\n')
        (tmp_path / "port.toml").write_text(f'{SETTINGS}[sidecar]\nport = {bound.port}\nsecret-file = "secret"\n')
        yield Guard(health, path, tmp_path / "socket.toml", tmp_path / "port.toml")
        nursery.cancel_scope.cancel()


async def said(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    await trio.to_thread.run_sync(partial(status, **options))
    return capsys.readouterr().out


async def fault(**options: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await trio.to_thread.run_sync(partial(status, **options))
    return caught.value


async def test_a_guard_is_found_by_its_socket_or_its_settings(guard: Guard, capsys: pytest.CaptureFixture[str]) -> None:
    for where in ({"socket": guard.socket}, {"config": guard.by_socket}, {"config": guard.by_port}):
        assert json.loads(await said(capsys, **where, json_output=True))["client_id"] == "edp-1"
    assert "edp-1" in await said(capsys, config=guard.by_socket)


async def test_what_is_wrong_is_said_in_one_sentence(guard: Guard, capsys: pytest.CaptureFixture[str]) -> None:
    guard.health.change(outage_since=1767225600.0, circuit="probing")
    found = await fault(socket=guard.socket)
    assert isinstance(found, NotWell)
    assert found.text == "nobody can be asked since 2026-01-01T00:00:00Z"
    assert "probing" in capsys.readouterr().out


async def test_nobody_there_and_another_program_there_are_told_apart(guard: Guard, tmp_path: Path) -> None:
    assert isinstance(await fault(socket=tmp_path / "nobody.sock"), NoGuard)
    (tmp_path / "secret").write_text("f" * 32)
    found = await fault(config=guard.by_port)
    assert isinstance(found, NoGuard)
    assert "answers 401" in found.text


async def test_it_must_be_said_which_guard(tmp_path: Path) -> None:
    assert isinstance(await fault(), WhichGuard)
    library = tmp_path / "library.toml"
    library.write_text(SETTINGS)
    found = await fault(config=library)
    assert isinstance(found, WhichGuard)
    assert "library" in found.text


def told(**changes: object) -> dict[str, Any]:
    health = ToldHealth()
    health.change(**{"parts": (PartHealth("events", "running"),)} | changes)
    found: dict[str, Any] = json.loads(statusz(health.now)[1])
    return found


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"memory": MemoryHealth(full=True)}, "disk"),
        ({"draining": True}, "stopping"),
        ({"parts": (PartHealth("events", "waiting"),)}, "events"),
        ({"events": EventsHealth(missing_since=1.0)}, "missing since 1970"),
        ({"evidence": EvidenceHealth(full=True)}, "evidence"),
        ({"halts": True}, ""),
        ({"outage_since": 1.0}, "nobody can be asked"),
    ],
)
def test_each_thing_that_is_wrong_is_named(changes: dict[str, object], word: str) -> None:
    found = problem(told(**changes))
    assert word in found
    assert bool(found) == bool(word)


def test_each_node_is_shown_with_its_newest_contact(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    nodes = (
        AddressHealth("https://a.example", "current", now - 9, now - 8, contact="current", contact_at=now - 8),
        AddressHealth("https://b.example", "last_known", 1.0, now - 300, now - 30, "reset", "reset", now - 30),
        AddressHealth("https://c.example", "last_known", 1.0, now - 61, contact="last_known", contact_at=now - 61),
        AddressHealth("https://d.example", answered_at=now - 5, contact="answered", contact_at=now - 5),
        AddressHealth("https://e.example"),
    )
    show(told(addresses=nodes), Console(width=160))
    rows = [re.sub(r"\s*[│┃|]\s*", "|", line).strip("|") for line in capsys.readouterr().out.splitlines()]
    shown = {row.split("|")[0]: row.split("|")[1:] for row in rows if "example" in row}
    assert re.fullmatch(r"current, [89] s ago", shown["https://a.example"][0])
    assert shown["https://a.example"][1] == "current"
    assert re.fullmatch(r"reset, 3\d s ago", shown["https://b.example"][0])
    assert (shown["https://b.example"][1], shown["https://b.example"][3]) == ("last_known", "5 min ago")
    assert re.fullmatch(r"last_known, 6\d s ago", shown["https://c.example"][0])
    assert re.fullmatch(r"answered, \d s ago", shown["https://d.example"][0])
    assert shown["https://d.example"][1] == "not said"
    assert shown["https://e.example"] == ["not asked yet", "not said", "", "never", "none"]


def test_the_page_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    page = told(
        circuit="suspended",
        outage_since=1767225600.0,
        outage_ends_at=1767312000.0,
        next_probe_at=1767226500.0,
        addresses=(
            AddressHealth("https://a.example", "current", 1.0, 1.0, contact="current", contact_at=1.0),
            AddressHealth("https://b.example", failed_at=1.0, failure="timeout"),
        ),
        memory=MemoryHealth(tokens=1234, ends=56, bytes_used=3 << 20, bytes_allowed=1 << 30),
        events=EventsHealth(last_seq=91822, last_push_at=1.0, ahead=3, missing_since=1767225600.0, anew=2),
        evidence=EvidenceHealth(allowed=7, refused=8, unreported=9),
        parts=(PartHealth("events", "waiting", restarts=2, last_fault="port 1 is in use"),),
    )
    show(page, Console(width=160))
    shown = capsys.readouterr().out
    for word in (
        "suspended", "2026-01-02T00:00:00Z", "2026-01-01T00:15:00Z", "https://a.example", "current", "timeout",
        "1,234 tokens", "56 ends", "3.0 of 1,024 MB", "91,822", "7 made, 8 refused", "3 wait", "port 1 is in use",
        "never", "91,822, its file began anew 2 times",
    ):  # fmt: skip
        assert word in shown, word
