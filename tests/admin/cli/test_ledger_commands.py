"""`ccs ledger verify | tail | export` as a process: what it prints and with which code it ends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from admin.cli import READER_GONE, run
from admin.ledger.chain import hash_of
from admin.ledger.schema import events
from admin.ledger.sql import open_ledger
from admin.ledger.store import FeedRecord, StoredEvent
from engine.feed.entries import EntryKind, Position
from tests.support.ledger import HandClock, change, ledger_config, settings_text, tamper


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A folder as `ccs up` makes it, with a ledger of six events."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with open_ledger(ledger_config(tmp_path, url), HandClock()) as ledger:
        for number in range(5):
            await ledger.append([change(number, person="p-1")])
        await ledger.checkpoint()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "admin.toml").write_text(settings_text(tmp_path, url))
    return tmp_path


def ccs(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "admin.cli", "ledger", *words], capture_output=True, text=True, check=False, timeout=60
    )


async def test_whole_ledger_is_called_so(state: Path) -> None:
    done = ccs("verify", "--state", state)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("whole: 6 events and 1 checkpoints are right")


async def test_broken_ledger_ends_with_seven_and_names_the_event(state: Path) -> None:
    tamper(f"sqlite:///{state}/ledger.db", sa.update(events).where(events.c.seq == 3).values(body=b""))
    done = ccs("verify", "--config", state / "config" / "admin.toml", "--json")
    assert done.returncode == 7
    assert "event 3: its contents do not match its hash" in done.stderr
    found = msgspec.json.decode(done.stdout)
    assert (found["whole"], found["events"], found["fault"]["seq"]) == (False, 2, 3)


async def test_kept_checkpoint_is_compared(state: Path) -> None:
    kept = msgspec.json.decode(ccs("verify", "--state", state, "--json").stdout)["checkpoint"]
    (state / "kept.json").write_bytes(msgspec.json.encode(kept))
    assert ccs("verify", "--state", state, "--against", state / "kept.json").returncode == 0
    kept["seq"] = 5
    (state / "kept.json").write_bytes(msgspec.json.encode(kept))
    done = ccs("verify", "--state", state, "--against", state / "kept.json")
    assert (done.returncode, "signature of checkpoint 5" in done.stderr) == (7, True)


async def test_no_ledger_ends_with_four_and_makes_none(state: Path) -> None:
    (state / "ledger.db").unlink()
    assert ccs("verify", "--state", state).returncode == 4
    assert not (state / "ledger.db").exists()


async def test_missing_settings_end_with_two(tmp_path: Path) -> None:
    done = ccs("verify", "--config", tmp_path / "admin.toml")
    assert (done.returncode, "admin.toml" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [("ledger", "verify"), ("ledger", "tail"), ("ledger", "export"), ("replica", "stat")])
def test_where_no_sandbox_was_started_four_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    assert run([*words, "--state", str(tmp_path / "nowhere")]) == 4
    told = capsys.readouterr().err
    assert told.startswith("ccs: no sandbox in ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("words", [("tail", "-n", "-2"), ("tail", "--lines=-1"), ("export", "--after", "-5")])
def test_a_number_below_zero_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(["ledger", *words]) == 2
    assert "Must be >= 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tail", "export"])
async def test_a_reader_that_goes_away_ends_the_command_quietly(state: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "admin.cli", "ledger", command, "--state", str(state)]
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(  # noqa: ASYNC221 - nothing else runs
            words, stdout=nobody, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


async def test_tail_prints_the_newest_events(state: Path) -> None:
    lines = ccs("tail", "--state", state, "-n", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["5", "6"]
    assert "consent.granted" in lines[0]


async def test_tail_follows(state: Path) -> None:
    command = [sys.executable, "-m", "admin.cli", "ledger", "tail", "--state", str(state), "-n", "1", "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - nothing else runs
        try:
            assert process.stdout is not None
            assert msgspec.json.decode(process.stdout.readline())["seq"] == 6
            async with open_ledger(ledger_config(state, f"sqlite:///{state}/ledger.db"), HandClock()) as ledger:
                await ledger.append([change(77)])
            assert msgspec.json.decode(process.stdout.readline())["seq"] == 7
        finally:
            process.kill()


async def test_export_is_complete_enough_to_check_every_hash(state: Path) -> None:
    assert ccs("export", "--state", state, "--out", state / "events.jsonl").returncode == 0
    exported = [msgspec.json.decode(line) for line in (state / "events.jsonl").read_bytes().splitlines()]
    assert [event["seq"] for event in exported] == [1, 2, 3, 4, 5, 6]
    assert exported[0]["event"]["kind"] == "sandbox"
    assert all(hash_of(read_back(event)).hex() == event["hash"] for event in exported)
    assert b"meter points" not in (state / "events.jsonl").read_bytes()


async def test_export_does_not_overwrite(state: Path) -> None:
    (state / "events.jsonl").touch()
    assert ccs("export", "--state", state, "--out", state / "events.jsonl").returncode == 2


async def test_export_goes_on_after_a_number(state: Path) -> None:
    lines = ccs("export", "--state", state, "--after", "4").stdout.splitlines()
    assert [msgspec.json.decode(line)["seq"] for line in lines] == [5, 6]


def read_back(said: dict[str, Any]) -> StoredEvent:
    def raw(text: str | None) -> Any:
        return None if text is None else msgspec.convert(text, bytes)

    feed = said["feed"] and FeedRecord(
        EntryKind(said["feed"]["kind"]), raw(said["feed"]["key"]), raw(said["feed"]["record"])
    )
    return StoredEvent(
        Position(said["incarnation"], said["seq"]),
        said["subject"],
        said["tag"],
        said["version"],
        said["recorded_at"],
        raw(said["body"]),
        said["person_id"],
        raw(said["ciphertext"]),
        feed,
        bytes.fromhex(said["previous_hash"]),
        bytes.fromhex(said["hash"]),
    )
