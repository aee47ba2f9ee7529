"""`ccs sandbox …`, `ccs admin` and the seed, against a real service in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.cli import READER_GONE
from admin.cli.check_config import check_config
from admin.cli.machine_client import MachineClient, refusal
from admin.cli.running import NotRunning, load_sandbox
from admin.cli.seed import seed
from engine.config import BadConfig
from engine.consent.records import ParticipantRecord
from engine.errors import Kind
from engine.guard.config import load_guard_config
from tests.support.lone_admin import ROOT, WITHIN, LoneAdmin


class Sandbox(LoneAdmin):
    """Its `ccs sandbox` commands."""

    def ccs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return super().ccs("sandbox", *arguments)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    running = Sandbox(tmp_path_factory.mktemp("sandbox")).start()
    seed(running.folder.directory, consents=120)
    yield running
    assert running.stop() == 0


def test_the_seed_registers_everybody_and_grants_what_was_asked(sandbox: Sandbox) -> None:
    import msgspec

    rows = sandbox.rows("SELECT record FROM feed_records WHERE kind = 3")
    found = {one.client_id: one for (row,) in rows for one in [msgspec.msgpack.decode(row, type=ParticipantRecord)]}
    assert found.keys() == {"edp-1", "edp-2", "edp-3", "atp-1", "atp-2", "node-1", "operator-1", "pusher-1"}
    edps = [found[name] for name in ("edp-1", "edp-2", "edp-3")]
    assert [edp.answers.name for edp in edps] == ["PLAIN", "PLAIN", "SIGNED"]
    assert all(edp.handles_last_known and edp.max_connections >= 1_000 for edp in edps)
    assert all(edp.max_requests_per_second >= 100_000 for edp in edps)
    assert sandbox.rows("SELECT count(*) FROM events WHERE tag = 'consent.granted'")[0][0] >= 120


def test_a_second_seed_changes_nothing(sandbox: Sandbox) -> None:
    before = sandbox.rows("SELECT head_seq FROM ledger_meta")
    seed(sandbox.folder.directory, consents=120)
    seed(sandbox.folder.directory, consents=60)  # fewer: what stands, stands
    assert sandbox.rows("SELECT head_seq FROM ledger_meta") == before


def test_tokens_are_printed_one_json_line_each(sandbox: Sandbox) -> None:
    done = sandbox.ccs("tokens", "--count", "3")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line) for line in lines] == [{"token", "consent_id", "edp", "atp", "expires_at"}] * 3
    assert {(line["edp"], line["atp"]) for line in lines} == {("edp-1", "atp-1")}


def test_tokens_go_to_a_file_for_whom_was_named(sandbox: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "tokens.jsonl"
    options = ("--count", "5", "--consents", "2", "--edp", "edp-3", "--atp", "atp-2")
    done = sandbox.ccs("tokens", *options, "--out", str(out))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert (len(lines), len({line["consent_id"] for line in lines})) == (5, 2)
    assert {(line["edp"], line["atp"]) for line in lines} == {("edp-3", "atp-2")}
    assert list(tmp_path.iterdir()) == [out]


def test_tokens_of_a_consent_that_stands_are_for_one_of_its_edps(sandbox: Sandbox) -> None:
    made = json.loads(sandbox.ccs("tokens", "--edp", "edp-2", "--atp", "atp-2").stdout)
    done = sandbox.ccs("tokens", "--consent", made["consent_id"], "--count", "2")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["consent_id"], line["edp"], line["atp"]) for line in lines] == [
        (made["consent_id"], "edp-2", "atp-2")
    ] * 2
    assert len({made["token"], *(line["token"] for line in lines)}) == 3
    wrong = sandbox.ccs("tokens", "--consent", made["consent_id"], "--edp", "edp-1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert sandbox.ccs("revoke", made["consent_id"]).returncode == 0
    assert sandbox.ccs("tokens", "--consent", made["consent_id"]).returncode == 5


def test_a_refused_request_leaves_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    done = sandbox.ccs("tokens", "--count", "5", "--edp", "nobody", "--out", str(tmp_path / "tokens.jsonl"))
    assert done.returncode == 2
    assert done.stderr.startswith("ccs: ")
    assert list(tmp_path.iterdir()) == []


def test_a_consent_is_revoked_and_the_line_says_how_far(sandbox: Sandbox) -> None:
    consent_id = json.loads(sandbox.ccs("tokens", "--count", "1").stdout)["consent_id"]
    done = sandbox.ccs("revoke", consent_id, "--wait-effective")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert set(line) == {"state", "position", "incarnation", "how", "nodes", "milliseconds"}
    assert line["state"] == "effective"
    asked = sandbox.ccs("revocation", consent_id, "--wait-effective")
    assert (asked.returncode, json.loads(asked.stdout)) == (0, line)
    again = sandbox.ccs("revoke", consent_id)
    assert (again.returncode, again.stdout) == (5, "")
    assert "revoked" in again.stderr


def test_a_consent_that_stands_has_no_revocation(sandbox: Sandbox) -> None:
    consent_id = json.loads(sandbox.ccs("tokens", "--count", "1").stdout)["consent_id"]
    done = sandbox.ccs("revocation", consent_id)
    assert (done.returncode, done.stdout) == (4, "")
    assert "not revoked" in done.stderr


def test_a_guard_is_set_up_with_every_file_it_names(sandbox: Sandbox) -> None:
    done = sandbox.ccs("guard", "edp-2", "--port", "0")
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    check_config(file)
    config = load_guard_config(file)
    assert (config.client_id, config.answers) == ("edp-2", "plain")
    assert config.events.receiver is not None
    assert (config.events.receiver.port, config.sidecar and config.sidecar.status_port) == (8460, 8461)
    (record,) = sandbox.rows("SELECT count(*) FROM events WHERE tag = 'participant.certificates_replaced'")
    kept = config.store.key_file.read_bytes()
    assert sandbox.ccs("guard", "edp-2", "--port", "0").returncode == 0
    assert config.store.key_file.read_bytes() == kept
    assert sandbox.rows("SELECT count(*) FROM events WHERE tag = 'participant.certificates_replaced'") == [record]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("revoke", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"), 4),
        (("revoke", "nonsense"), 4),
        (("revoke", "../participants/atp-1"), 4),
        (("revoke", "nonsense?wait=1#"), 4),
        (("revoke", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10", "--reason", "boredom"), 2),
        (("revocation", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"), 4),
        (("revocation", "../participants/atp-1"), 4),
        (("guard", "edp-9"), 4),
        (("tokens", "--count", "0"), 2),
        (("tokens", "--count", "2", "--consents", "3"), 2),
        (("tokens", "--count", "2", "--atp", "edp-1"), 2),
        (("tokens", "--consent", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"), 4),
        (("tokens", "--consent", "../participants/atp-1", "--edp", "edp-1"), 4),
        (("tokens", "--consent", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10", "--atp", "atp-1"), 2),
        (("tokens", "--consent", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10", "--edp", "edp-1", "--count", "0"), 2),
    ],
)
def test_refusals_have_their_exit_codes(sandbox: Sandbox, arguments: tuple[str, ...], code: int) -> None:
    done = sandbox.ccs(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("ccs: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("out", ["/nonexistent/x", "/", "/proc/x", f"{__file__}/x"])
def test_a_file_that_cannot_be_written_is_one_sentence(sandbox: Sandbox, out: str) -> None:
    done = sandbox.ccs("tokens", "--out", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ccs: {out}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_of_tokens_that_goes_away_is_no_fault(sandbox: Sandbox) -> None:
    state = str(sandbox.folder.directory)
    words = [sys.executable, "-m", "admin.cli", "sandbox", "tokens", "--count", "3", "--state", state]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(words, cwd=ROOT, stdout=nobody, stderr=subprocess.PIPE, timeout=WITHIN, check=False)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(405, Kind.INVALID), (413, Kind.INVALID), (415, Kind.INVALID), (500, Kind.BROKEN), (499, Kind.BROKEN)],
)
def test_statuses_have_their_kinds(status: int, kind: Kind) -> None:
    assert refusal(status, b"").kind is kind


def test_certificates_that_are_gone_are_one_sentence(sandbox: Sandbox, tmp_path: Path) -> None:
    described = json.loads(sandbox.folder.description.read_bytes())
    described["operator"]["key_file"] = str(tmp_path / "gone.key")
    (tmp_path / "sandbox.json").write_text(json.dumps(described))
    with pytest.raises(BadConfig, match="operator-1"):
        MachineClient(load_sandbox(tmp_path))


def test_where_nothing_runs_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        load_sandbox(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "admin.cli", "sandbox", "tokens", "--count", "1", "--state", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "ccs up" in done.stderr


def test_what_was_acknowledged_survives_a_kill_and_a_service_that_is_gone_is_said(tmp_path: Path) -> None:
    running = Sandbox(tmp_path / "state").start()
    seed(running.folder.directory, consents=0)
    minted = json.loads(running.ccs("tokens", "--count", "1").stdout)
    assert running.ccs("revoke", minted["consent_id"]).returncode == 0
    assert running.process is not None
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait(WITHIN)
    gone = running.ccs("revoke", minted["consent_id"])
    assert gone.returncode == 3
    assert "does not answer" in gone.stderr
    running.start()
    assert running.ccs("revoke", minted["consent_id"]).returncode == 5
    assert running.stop(signal.SIGINT) == 0
