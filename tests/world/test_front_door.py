"""`ccs up` as its first user meets it: the README's own commands, Ctrl-C, a second start, clear refusals."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.sandbox import ROOT, SOON, Running, eventually, gone

DOCUMENTED = {"localhost:8440": "introspection_endpoint", "localhost:8451": "admin_mtls_url"}


def shell_blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run_as_written(block: str, sandbox: Running, cwd: Path) -> str:
    """A documented command, with the sandbox's own ports in place of the default ones."""
    for address, member in DOCUMENTED.items():
        block = block.replace(address, sandbox.about[member].split("/")[2])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def checkout(sandbox: Running, tmp_path: Path) -> Path:
    """A folder in which documented commands find `.venv/bin/ccs` and `var`."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    ccs = tmp_path / ".venv/bin/ccs"
    ccs.write_text(f'#!/bin/sh\nexec {sys.executable} -m admin.cli "$@"\n')
    ccs.chmod(0o755)
    (tmp_path / "var").symlink_to(sandbox.state)
    return tmp_path


def test_the_readmes_commands_work_when_pasted(sandbox: Running, checkout: Path) -> None:
    blocks = [block for block in shell_blocks("README.md") if ".venv/bin/ccs" in block]
    assert len(blocks) == 2
    asked = run_as_written(blocks[0], sandbox, checkout)
    assert json.loads(asked.splitlines()[-1])["active"] is True
    revoked = json.loads(run_as_written(blocks[1], sandbox, checkout))
    assert (revoked["state"], revoked["how"]) == ("effective", "acknowledged")
    assert [(node["node_id"], node["acknowledged"]) for node in revoked["nodes"]] == [("node-1", True)]
    introspect = blocks[0][blocks[0].index("curl") :]
    assert json.loads(run_as_written(introspect, sandbox, checkout)) == {"active": False}


def test_the_edp_guides_commands_work_when_pasted(sandbox: Running, checkout: Path) -> None:
    ask, batch, *_ = shell_blocks("docs/edp.md")  # the others need a restored ledger: test_recovering
    assert json.loads(run_as_written(ask, sandbox, checkout).splitlines()[-1])["active"] is True
    both = run_as_written(f"{ask}\n{batch}", sandbox, checkout)
    answer = json.loads(both[both.index('{"evaluations"') :])
    assert [item["context"]["code"] for item in answer["evaluations"]] == ["mpxn_not_consented"] * 2


def test_the_atp_guides_commands_work_when_pasted_in_their_order(sandbox: Running, checkout: Path) -> None:
    grant, token, renew, revoke, invalid, look, *_ = shell_blocks("docs/atp.md")
    granted = json.loads(run_as_written(grant, sandbox, checkout))
    assert granted["state"] == "active"
    minted = json.loads(run_as_written(token, sandbox, checkout))
    assert (minted["consent_id"], minted["edp"], minted["atp"]) == (granted["consent_id"], "edp-1", "atp-1")
    edp = sandbox.caller("edp-1")
    eventually(lambda: edp.introspect(minted["token"])[1].get("active") is True)
    renewed = json.loads(run_as_written(renew, sandbox, checkout))
    assert renewed["consent_expires_at"] > granted["consent_expires_at"]
    assert json.loads(run_as_written(revoke, sandbox, checkout))["state"] == "effective"
    assert edp.introspect(minted["token"]) == (200, {"active": False})
    shown = json.loads(run_as_written(look, sandbox, checkout))
    assert (shown["state"], shown["consent"]["atp_reference"]) == ("revoked", "c-4471")
    run_as_written(grant, sandbox, checkout)
    told = json.loads(run_as_written(invalid, sandbox, checkout))
    assert (told["state"], told["reason"]) == ("effective", "moved_out")
    assert told["effective_from"] < json.loads(run_as_written(look, sandbox, checkout))["consent"]["granted_at"]


def test_the_codes_that_the_atp_guide_names_are_the_services_own() -> None:
    from admin.authorization.minting import CannotMint
    from admin.callers import SuspendedCaller, UnknownCaller, WrongRole
    from admin.consents.commands import UnknownConsent
    from admin.edge import STATUSES, code_of
    from admin.ledger.store import IdempotencyMismatch
    from admin.writing import MissingIdempotencyKey
    from engine.consent.reading import InvalidFields
    from engine.consent.states import IllegalTransition

    kinds = (UnknownCaller, SuspendedCaller, WrongRole, UnknownConsent, IllegalTransition, CannotMint)
    faults = [InvalidFields([]), *(kind("") for kind in (*kinds, IdempotencyMismatch, MissingIdempotencyKey))]
    told = {(int(STATUSES[fault.kind]), code_of(fault)) for fault in faults}
    rows = re.findall(r"^\| (\d{3}) ((?:`\w+`(?:, )?)+) \|", (ROOT / "docs/atp.md").read_text(), re.MULTILINE)
    assert {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)} == told


def test_ctrl_c_stops_every_process_and_the_next_start_goes_on(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=3, workers=1).start()
    pids = running.about["pids"]
    every = [pids["admin"], pids["node"], pids["redis"], pids["pusher"], pids["feeder"], *pids["workers"]]
    (minted,) = running.tokens()
    head = running.node_status()["applied"]
    assert running.stop(signal.SIGINT) == 0
    eventually(lambda: all(gone(pid) for pid in every))
    assert not (running.state / "sandbox.json").exists()

    running.start()
    try:
        assert running.node_status()["applied"] >= head
        caller = running.caller("edp-1")
        # ports chosen anew make a new issuer: 503 until the node has its keys, never an answer by the old ones
        eventually(lambda: caller.introspect(minted["token"])[0] == 200)
        answer = caller.introspect(minted["token"])[1]
        assert answer["active"] is (running.about["issuer"] == answer.get("iss"))
    finally:
        assert running.stop(signal.SIGTERM) == 0


def test_a_pusher_that_was_killed_is_started_again_and_works(sandbox: Running) -> None:
    killed = sandbox.about["pids"]["pusher"]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: sandbox.about["pids"]["pusher"] not in (0, killed))
    url = sandbox.about["pusher_status_url"] + "/readyz"

    def works() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=SOON) as answer:  # noqa: S310 - our own address
                return bool(json.load(answer)["state"] == "working")
        except OSError:
            return False

    eventually(works)
    eventually(lambda: pusher_shown_by(sandbox.ccs("status", "--json")) == "pusher-1")


def pusher_shown_by(done: subprocess.CompletedProcess[str]) -> str:
    """Who pushes, as `ccs status` says; else all that it said."""
    if done.returncode != 0:
        return done.stdout
    return str((json.loads(done.stdout)["pushing"]["lease"] or {}).get("pusher", ""))


def test_a_start_after_a_kill_ends_what_was_left_behind(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=3, workers=1).start()
    pids = running.about["pids"]
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    running.output.write_text("")
    running.start()
    try:
        eventually(lambda: gone(pids["admin"]) and gone(pids["node"]) and gone(pids["redis"]))
        assert len(running.tokens()) == 1
    finally:
        assert running.stop() == 0


def test_a_closed_terminal_stops_every_process(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=3, workers=1).start()
    pids = running.about["pids"]
    assert running.stop(signal.SIGHUP) == 0
    eventually(lambda: all(gone(pid) for pid in (pids["admin"], pids["node"], pids["redis"], pids["feeder"])))


def test_ctrl_c_during_the_start_stops_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "var"
    running = Running(state, consents=3, workers=1)
    running.launch()
    eventually(lambda: "ledger and APIs" in running.output.read_text())
    assert running.stop(signal.SIGINT) == 0
    assert "Ready." not in running.output.read_text()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(state).encode() in read_if_there(p)]


def test_an_admin_whose_port_is_taken_for_a_while_comes_back(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=3, workers=1).start()
    try:
        (minted,) = running.tokens()
        victim = running.about["pids"]["admin"]
        port = int(running.about["admin_mtls_url"].rsplit(":", 1)[1])
        os.kill(victim, signal.SIGKILL)
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            eventually(lambda: bound(taken, port))
            taken.listen()
            eventually(lambda: running.output.read_text().count("admin ended") >= 2)
        caller = running.caller("edp-1")
        eventually(lambda: running.ccs("sandbox", "revoke", minted["consent_id"]).returncode in (0, 5), 60)
        eventually(lambda: caller.introspect(minted["token"]) == (200, {"active": False}))
    finally:
        assert running.stop() == 0


def test_a_folder_that_lost_its_ledger_says_so_and_makes_no_new_one(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=1, workers=1).start()
    assert running.stop() == 0
    for file in (running.state / "ledger").iterdir():
        file.unlink()
    done = up("--state", str(running.state), "--config", str(tmp_path / "var.toml"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "ledger/ledger.db is missing" in done.stderr
    (running.state / "state.json").write_text('{"format":1,"complete":false,"has_ledger":true}')
    done = up("--state", str(running.state), "--config", str(tmp_path / "var.toml"))
    assert (done.returncode, "ledger/ledger.db is missing" in done.stderr) == (2, True)
    alone = ccs("admin", "--config", str(running.state / "config/admin.toml"))  # as one that died is started again
    assert (alone.returncode, "there is no ledger at" in alone.stderr) == (4, True)
    assert list((running.state / "ledger").iterdir()) == []


def test_a_broken_certificate_is_named(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=1, workers=1).start()
    assert running.stop() == 0
    (running.state / "pki/edp-1.pem").write_text("garbage")
    done = up("--state", str(running.state), "--config", str(tmp_path / "var.toml"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "edp-1.pem" in done.stderr


def bound(taken: socket.socket, port: int) -> bool:
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def up(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ccs("up", *arguments)


def ccs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "admin.cli", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_port_in_use_gets_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "up.toml").write_text(f"public-port = {port}\nintrospection-port = 0\nstatus-port = 0\n")
        done = up("--state", str(tmp_path / "var"), "--config", str(tmp_path / "up.toml"))
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_of_somebody_else_gets_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    done = up("--state", str(tmp_path))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "holds something else" in done.stderr


def test_a_folder_that_lost_a_key_names_it(tmp_path: Path) -> None:
    running = Running(tmp_path / "var", consents=1, workers=1).start()
    assert running.stop() == 0
    (running.state / "keys/meter.key").unlink()
    done = up("--state", str(running.state), "--config", str(tmp_path / "var.toml"))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "keys/meter.key is missing" in done.stderr


def test_the_command_runs_from_a_source_archive_without_git(tmp_path: Path) -> None:
    tree = tmp_path / "ccs"
    ignore = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", "tests", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=ignore)
    done = subprocess.run(
        [sys.executable, "-m", "admin.cli", "--help"],
        cwd=tree, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "ccs up" in done.stdout


def test_help_teaches_and_exit_codes_are_documented() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "admin.cli", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Exit codes" in done.stdout
    for name in ("up", "status", "node", "admin", "guard", "check-config", "ledger", "replica", "sandbox"):
        assert name in done.stdout


def test_help_needs_none_of_the_admin_applications_libraries() -> None:
    code = (
        "import sys; import admin.cli; "
        "print([m for m in ('quart', 'sqlalchemy', 'hypercorn', 'lmdb', 'redis') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
