"""An EDP's guard as its guide has it set up: asked, told of a revocation, alone in an outage, and back again.

Real processes, real TLS; the guide's own commands. Only the guard's patience is shortened: an hour's waits in seconds.
"""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from admin.ledger.database import Database
from admin.ledger.outbox_pruning import DAY, PAYLOAD_DAYS, POLL_DAYS, Pruning
from admin.ledger.schema import deliveries
from engine.clock import Seconds
from engine.guard.config import load_guard_config
from engine.guard.store import GuardStore
from engine.telemetry.host import SystemClock
from tests.support.sandbox import ROOT, SOON, Running, eventually, gone
from tests.world.test_front_door import run_as_written, shell_blocks

# A sixtieth of the waits between probes, and of the first minute in which a new store takes nothing (a clock may be
# wrong). Everything else is as it is installed.
HASTE = """
import engine.guard.circuit as circuit, engine.guard.home as home, engine.guard.reporting as reporting
assert home.CLOCK_ERROR == 60
home.CLOCK_ERROR = 1
reporting.LOOK_EVERY /= 60
for name in ("BUFFER", "PROBE_EVERY", "PROBE_JITTER", "SUSPENDED_EVERY"):
    assert hasattr(circuit, name)
    setattr(circuit, name, getattr(circuit, name) / 60)
circuit.RAMP = tuple((seconds / 60, part) for seconds, part in circuit.RAMP)
"""
FREE_PORTS = "--port 0 --receiver-port 0 --status-port 0"
DEFAULT_DOOR = "localhost:8462"


def code_block(language: str) -> str:
    """The guide's one example in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", guide_of_the_guard(), re.MULTILINE | re.DOTALL)
    return found


def guide_of_the_guard() -> str:
    page = (ROOT / "docs/edp.md").read_text()
    return page[page.index("## With our guard") : page.index("## After a loss")]


def guards_commands() -> dict[str, str]:
    blocks = [block for block in shell_blocks("docs/edp.md") if "guard" in block]
    set_up, start, look, ask = blocks
    return {"set up": set_up, "start": start, "look": look, "ask": ask}


class Guarded:
    """A sandbox, a folder in which the guides' commands work, and a guard that may run."""

    def __init__(self, sandbox: Running, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "guard.log"
        self.log.touch()
        (folder / "haste.py").write_text(f"{HASTE}from admin.cli import main\nmain()\n")
        (folder / ".venv/bin").mkdir(parents=True)
        ccs = folder / ".venv/bin/ccs"
        ccs.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "haste.py"} "$@"\n')
        ccs.chmod(0o755)
        (folder / "var").symlink_to(sandbox.state)

    def run(self, block: str) -> str:
        return run_as_written(block, self.sandbox, self.folder)

    def start(self, block: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {block.strip()}"], cwd=self.folder, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, process_group=0,
            )  # fmt: skip

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SOON)

    @property
    def home(self) -> Path:
        return self.folder / "var/guard/edp-1"

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("guard", timeout=SOON)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(SOON)
        connection.sock.connect(str(self.home / "guard.sock"))
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def check(self, minted: dict[str, Any]) -> dict[str, Any]:
        status, verdict = self.call("POST", "/v1/check", share_of(minted, self.sandbox.state))
        assert status == 200, verdict
        found: dict[str, Any] = verdict
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/v1/status")[1]
        return found

    def is_well(self) -> bool:
        return self.sandbox_command("guard", "status", "--socket", str(self.home / "guard.sock")).returncode == 0

    def sandbox_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "admin.cli", *words],
            cwd=ROOT, capture_output=True, text=True, timeout=SOON, check=False,
        )  # fmt: skip


def share_of(minted: dict[str, Any], state: Path) -> dict[str, str]:
    """A share that a token's consent covers, as the ATP's certificate would go with it."""
    part = minted["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    (entry,) = claims["authorization_details"]
    return {
        "token": minted["token"],
        "certificate": (state / f"pki/{minted['atp']}.pem").read_text(),
        "dataset_id": entry["dataset_id"],
        "mpxn": entry["meter_points"][0],
        "from": entry["data_from"],
        "to": entry["data_from"].replace("T00:00:00Z", "T12:00:00Z").replace("T23:00:00Z", "T23:30:00Z"),
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guard")
    sandbox = Running(folder / "var-1", consents=3, workers=1).start()
    (folder / "edp").mkdir()
    made = Guarded(sandbox, folder / "edp")
    yield made
    if made.process is not None:
        made.stop()
    assert sandbox.stop() == 0, sandbox.output.read_text()


def test_a_guard_as_the_guide_has_it(guarded: Guarded) -> None:
    commands = guards_commands()
    grant, token, *_ = shell_blocks("docs/atp.md")
    guarded.run(grant)
    minted = json.loads(guarded.run(token))

    assert "good, for `ccs guard`" in guarded.run(
        commands["set up"].replace("guard edp-1", f"guard edp-1 {FREE_PORTS}")
    )
    assert library_says(guarded, minted)["reason"] == "consented"

    guarded.start(commands["start"])
    eventually(lambda: (guarded.home / "guard.sock").exists() or ended(guarded))
    eventually(lambda: guarded.call("GET", "/v1/status")[0] == 200)
    eventually(guarded.is_well)
    eventually(lambda: guarded.status()["events"]["push_status"] == "enabled")
    assert not re.findall(r'.*"level":"(?:warning|error)".*', guarded.log.read_text()), "nothing is wrong"
    assert "closed" in guarded.run(commands["look"])

    verdict = json.loads(guarded.run(commands["ask"]))
    assert (verdict["allowed"], verdict["reason"], verdict["freshness"]) == (True, "consented", "current")
    (node,) = guarded.status()["addresses"]
    assert (node["contact"], node["freshness"]) == ("current", "current")
    assert "current," in guarded.run(commands["look"])
    assert_other_languages_say_yes(guarded, minted)

    known, revoked = guarded.sandbox.tokens(2, "--edp", "edp-1", "--consents", "2")
    eventually(lambda: guarded.check(known)["allowed"] and guarded.check(revoked)["allowed"])
    (unknown,) = guarded.sandbox.tokens(1, "--consent", known["consent_id"], "--edp", "edp-1")
    told = guarded.sandbox.ccs("sandbox", "revoke", revoked["consent_id"], "--wait-effective")
    position = json.loads(told.stdout)["position"]
    eventually(lambda: guarded.status()["events"]["last_seq"] >= position)
    assert guarded.status()["events"]["last_push_at"] is not None

    with engine_away(guarded.sandbox):
        verdict = guarded.check(known)
        assert (verdict["allowed"], verdict["reason"]) == (True, "last_known"), guarded.log.read_text()
        assert verdict["consent_id"] == known["consent_id"]
        assert_refused(guarded.check(revoked), "not_active")
        assert_refused(guarded.check(unknown), "unknown_in_outage")
        status = guarded.status()
        assert (status["outage_since"] is not None, status["circuit"] != "closed") == (True, True)
        assert guarded.call("GET", f"/v1/evidence/{verdict['evidence_id']}")[0] == 200
        assert not guarded.is_well()

    eventually(lambda: guarded.status()["outage_since"] is None, 60)  # although no share is asked about
    eventually(lambda: guarded.status()["evidence"]["unreported"] == 0, 60)
    verdict = guarded.check(known)
    assert (verdict["reason"], verdict["freshness"]) == ("consented", "current")
    assert guarded.status()["evidence"]["last_report_at"] is not None
    told = guarded.sandbox.ccs("reports", "fallback", "--edp", "edp-1", "--json")
    assert known["consent_id"] in told.stdout
    assert revoked["consent_id"] not in told.stdout
    assert_refused(guarded.check(revoked), "not_active")
    eventually(guarded.is_well)
    logged = guarded.log.read_text()
    assert not any(one["token"] in logged for one in (minted, known, revoked, unknown))

    assert guarded.stop() == 0
    assert not (guarded.home / "guard.sock").exists()


def test_a_guard_that_was_down_learns_what_it_missed(guarded: Guarded) -> None:
    """For an hour by poll; for eight days by the changes; for longer than payloads are kept by a snapshot."""
    commands = guards_commands()
    if not (guarded.home / "guard.toml").exists():
        guarded.run(commands["set up"].replace("guard edp-1", f"guard edp-1 {FREE_PORTS}"))
    tokens = guarded.sandbox.tokens(3, "--edp", "edp-1", "--consents", "3")
    for minted, days in zip(tokens, (0, POLL_DAYS + 1, PAYLOAD_DAYS + 1), strict=True):
        revived(guarded, commands["start"], 0)
        eventually(partial(is_allowed, guarded, minted))
        before = guarded.status()["events"]["last_seq"]
        assert guarded.stop() == 0
        assert not knows_the_end(guarded, minted["consent_id"])
        told = guarded.sandbox.ccs("sandbox", "revoke", minted["consent_id"], "--wait-effective")
        position = json.loads(told.stdout)["position"]
        if days:
            trio.run(prune_outbox, guarded.sandbox, position, days)
        listed = revived(guarded, commands["start"], position)
        assert guarded.stop() == 0
        assert knows_the_end(guarded, minted["consent_id"])
        way = "snapshot" if days > PAYLOAD_DAYS else "changes"
        assert (listed["by"], listed["as_of"] >= position) == (way, True)
        assert days or listed["after"] >= position, "poll has brought it before"
        assert days <= PAYLOAD_DAYS or listed["after"] == before, "neither poll nor push has"


def revived(guarded: Guarded, command: str, position: int) -> dict[str, Any]:
    """What a started guard has logged of its first listing, once nothing is missing up to a position."""
    seen = len(guarded.log.read_bytes())
    guarded.start(command)
    eventually(lambda: (guarded.home / "guard.sock").exists() or ended(guarded))
    eventually(lambda: "events_listed" in guarded.log.read_bytes()[seen:].decode())
    eventually(lambda: guarded.status()["events"]["last_seq"] >= position)
    eventually(guarded.is_well)
    found = re.search(r'.*"event":"events_listed".*', guarded.log.read_bytes()[seen:].decode())
    assert found is not None
    line: dict[str, Any] = json.loads(found[0])
    return line


def is_allowed(guarded: Guarded, minted: dict[str, Any]) -> bool:
    return bool(guarded.check(minted)["allowed"])


def knows_the_end(guarded: Guarded, consent_id: str) -> bool:
    """Of a guard that is stopped."""
    config = load_guard_config(guarded.home / "guard.toml")
    store = GuardStore(config.store, config.client_id, SystemClock().now)
    try:
        return store.has_ended(consent_id)
    finally:
        store.close()


async def prune_outbox(sandbox: Running, position: int, days: int) -> None:
    """As the service itself would after so many days, once the outbox holds what happened at a position."""
    database = Database(f"sqlite:///{sandbox.state / 'ledger/ledger.db'}")
    with trio.fail_after(SOON):
        while not await database.read(partial(is_derived, position=position)):  # noqa: ASYNC110 - another process
            await trio.sleep(0.05)
    await Pruning(database, lambda: time.time() + days * DAY, leap=Seconds(2.0 * days * DAY)).prune()
    database.dispose()


def is_derived(connection: sa.Connection, position: int) -> bool:
    query = sa.select(deliveries.c.number).where(deliveries.c.seq >= position, deliveries.c.client_id == "edp-1")
    return connection.execute(query.limit(1)).first() is not None


def assert_refused(verdict: dict[str, Any], *reasons: str) -> None:
    assert not verdict["allowed"]
    assert verdict["reason"] in reasons


class engine_away:  # noqa: N801 - read as a sentence
    """The engine is gone, and whoever would start it again is held."""

    def __init__(self, sandbox: Running) -> None:
        self._sandbox = sandbox

    def __enter__(self) -> None:
        assert self._sandbox.process is not None
        pids = self._sandbox.about["pids"]
        self._sandbox.process.send_signal(signal.SIGSTOP)
        node = [pids["node"], *pids["workers"], pids["feeder"]]
        for pid in node:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: all(gone(pid) for pid in node))

    def __exit__(self, *_: object) -> None:
        assert self._sandbox.process is not None
        self._sandbox.process.send_signal(signal.SIGCONT)


def ended(guarded: Guarded) -> bool:
    assert guarded.process is not None
    assert guarded.process.poll() is None, guarded.log.read_text()
    return False


def library_says(guarded: Guarded, minted: dict[str, Any]) -> dict[str, Any]:
    """The guide's Python, on the guard's own settings."""
    asking = """
import sys
import time
from engine.guard.requests import verdict_json
pem = open(sys.argv[3]).read()
print(verdict_json(asyncio.run(main(sys.argv[1], sys.argv[2], pem))).decode())
"""
    code = "\n".join((HASTE, code_block("python"), asking))
    certificate = guarded.sandbox.state / "pki/atp-1.pem"
    done = subprocess.run(
        [sys.executable, "-c", code, str(guarded.home / "guard.toml"), minted["token"], str(certificate)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return verdict


def assert_other_languages_say_yes(guarded: Guarded, minted: dict[str, Any]) -> None:
    """Java where it is installed. Go only when asked for: compiling its standard library takes half a minute."""
    share = share_of(minted, guarded.sandbox.state)
    thumbprint = json.loads(guarded.run(commands_thumbprint()))["x5t"]
    door = re.search(r"^port = (\d+)\nsecret", (guarded.home / "guard.toml").read_text(), re.MULTILINE)
    assert door is not None
    if shutil.which("java"):
        (guarded.folder / "AskGuard.java").write_text(code_block("java"))
        arguments = [f"http://localhost:{door[1]}", str(guarded.home / "secret"), share["token"], thumbprint]
        assert json.loads(run(guarded, "java", "AskGuard.java", *arguments))["allowed"] is True
    if os.environ.get("CCS_COMPILE_GO"):
        (guarded.folder / "askguard.go").write_text(code_block("go"))
        arguments = [str(guarded.home / "guard.sock"), share["token"], thumbprint]
        assert "share once" in run(guarded, "go", "run", "askguard.go", *arguments)


def commands_thumbprint() -> str:
    (line,) = [line for line in guards_commands()["ask"].splitlines() if line.startswith("X5T=")]
    return f'{line}\nprintf \'{{"x5t": "%s"}}\' "$X5T"\n'


def run(guarded: Guarded, *words: str) -> str:
    done = subprocess.run(words, cwd=guarded.folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
