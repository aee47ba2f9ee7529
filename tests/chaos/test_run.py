"""A short run of the whole thing, as `make chaos` does it: nothing is wrong, nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from admin.cli.children import STATE_MARK

ROOT = Path(__file__).parents[2]
SECONDS, SEED, RATE, CHECKS = 20, 2681, 60, 30
COMMAND = (sys.executable, "-m", "tests.chaos", "--seed", str(SEED), "--rate", str(RATE), "--checks", str(CHECKS))
WITHIN = 150.0  # against hanging only


def processes_of(directory: Path) -> list[str]:
    """Command lines of living processes of a run, by environment or arguments; Redis hides both, and works in there."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mark = f"{STATE_MARK}={directory}".encode() in (entry / "environ").read_bytes().split(b"\0")
            inside = (entry / "cwd").readlink().is_relative_to(directory)
        except OSError:
            continue
        if line and (mark or inside or str(directory) in line) and int(entry.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    directory = tmp_path_factory.mktemp("chaos") / "run"
    report = directory.parent / "report"
    options = ("--seconds", str(SECONDS), "--json", "--directory", str(directory), "--report", str(report))
    done = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False)
    return done, directory


@pytest.fixture(scope="module")
def results(run: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    done, _ = run
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(WITHIN + 30)
def test_no_promise_is_broken(run: tuple[subprocess.CompletedProcess[str], Path], results: dict[str, Any]) -> None:
    done, _ = run
    assert results["violations"] == []
    assert results["ended_by_themselves"] == []
    assert done.returncode == 0, done.stderr[-4000:]


def test_there_was_something_to_break(results: dict[str, Any]) -> None:
    asked = results["callers"]["all"]
    assert len(results["plan"]) >= 3
    assert asked["questions"] > 100
    assert results["asked_after_effect"] > 10
    assert 0.5 < asked["raw"] <= asked["retried"]
    assert results["account"]["fates"]["acknowledged"] > 10
    assert results["account"]["asked"] > 10
    assert results["verified"] > 10


def test_guards_were_asked_beside_and_shared_in_the_outage(results: dict[str, Any]) -> None:
    guards = results["guards"]
    guarded, told = guards["guarded"], guards["told"]
    assert guarded["all"]["checks"] > 20
    assert guarded["outages"]["checks"] > 5
    assert guarded["outages"]["raw"] < 0.5
    assert guards["fallback_shares"] > 5
    assert guarded["outages"]["guarded"] > guarded["outages"]["raw"]
    assert guards["asked_after_told"] > 2
    assert told["asked"] > 5
    assert set(told["back"]) == set(told["ends"]) == {"guard-1", "guard-3"}
    assert all(told["remembered"][guard] >= count > 0 for guard, count in told["ends"].items())
    assert set(told["parked"].values()) == {0}


def test_what_guards_had_introspected_is_told_apart_and_answered_through_the_outage(results: dict[str, Any]) -> None:
    guards = results["guards"]
    answered = guards["guarded"]["answered"]
    assert answered["seen"]["checks"] + answered["unseen"]["checks"] == answered["all"]["checks"]
    assert answered["lasting"]["checks"] > 20
    assert answered["passing"]["checks"] > 5
    assert answered["seen_in_outages"]["checks"] > 5
    assert answered["seen_in_outages"]["guarded"] > 0.5 > answered["seen_in_outages"]["raw"]
    missed = sum(one["count"] for one in guards["guarded"]["undecided"])
    assert missed == answered["all"]["missed"]
    assert guards["lasting_ended"] >= 1
    assert set(guards["circuits"]) == {"guard-1", "guard-3"}
    assert all(circuit.keys() - {"closed", "silent"} for circuit in guards["circuits"].values())
    assert results["callers"]["seconds_without"] >= 1


def test_the_report_says_it_all(run: tuple[subprocess.CompletedProcess[str], Path], results: dict[str, Any]) -> None:
    _, directory = run
    page = (directory.parent / "report" / "CHAOS.md").read_text()
    assert f"SEED={SEED}" in page
    assert "| wrong actives (must be 0) | 0 |" in page
    assert "| shares after the end had reached the guard (must be 0) | 0 |" in page
    assert all(f"{fault['what']} {fault['target']}" in page for fault in results["plan"])
    assert (directory.parent / "report" / "chaos.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_left_running_and_logs_are_kept(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, directory = run
    assert processes_of(directory) == []
    assert {path.name for path in (directory / "log").iterdir()} >= {
        "admin.log",
        "node-1.log",
        "redis.log",
        "pusher.log",
        "guard-1.log",
    }


@pytest.mark.timeout(WITHIN)
def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen(
            [*COMMAND, "--seconds", "100", "--directory", str(directory)], cwd=ROOT, stdout=said, stderr=said,
            process_group=0,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + WITHIN / 2
        while len(processes_of(directory)) < 5:
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()
            assert running.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(WITHIN / 2) == 130
    finally:
        running.kill()
        running.wait()
    assert processes_of(directory) == []
    assert f"logs lie in {directory}" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    "wrong", [("--seconds", "1"), ("--nodes", "1"), ("--rate", "0"), ("--checks", "0"), ("--directory", "tests")]
)
def test_wrong_input_is_refused_before_anything_starts(wrong: tuple[str, str]) -> None:
    done = subprocess.run([*COMMAND, *wrong], cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 2
    assert "error:" in done.stderr
