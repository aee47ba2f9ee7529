"""Every command of the operators' page on restoring is run, in its order, as a shell would."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import time

import msgspec
import pytest
import trio

from admin.cli import INTERRUPTED, run
from admin.ledger.sql import open_ledger, open_reader
from tests.support.ledger import HandClock, change, ledger_config, settings_text

PAGE = Path(__file__).parents[3] / "docs/operators/restore.md"
EVENTS = 6


def commands() -> list[str]:
    """The lines of all shell blocks of the page."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the page names: settings of a ledger, of the one to restore, of a rehearsal."""
    past = HandClock(int(time()) - 60)  # the commands read the real clock
    for name in ("admin", "restored", "rehearsal"):
        (tmp_path / f"{name}.toml").write_text(settings_text(tmp_path, f"sqlite:///{tmp_path}/{name}.db"))
    for folder in ("second", "record"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ccs").write_text(f'#!/bin/sh\nexec {sys.executable} -m admin.cli "$@"\n')
    (tmp_path / "bin" / "ccs").chmod(0o755)
    trio.run(fill, tmp_path, past)
    return tmp_path


async def fill(desk: Path, clock: HandClock) -> None:
    async with open_ledger(ledger_config(desk, f"sqlite:///{desk}/admin.db"), clock) as ledger:
        for number in range(EVENTS - 1):
            await ledger.append([change(number, person="p-1")])


async def head_of(desk: Path, name: str) -> int:
    async with open_reader(ledger_config(desk, f"sqlite:///{desk}/{name}.db")) as reader:
        return (await reader.head()).position.seq


class Shell:
    """Runs the page's lines in the folder, with the place below it."""

    def __init__(self, desk: Path) -> None:
        self._desk = desk
        path = f"{desk / 'bin'}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PAGE.parents[2])}

    def run(self, line: str) -> str:
        here = line.replace("/mnt/", "")
        words = ["sh", "-c", f"exec {here}" if here.startswith("ccs") else here]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, cwd=self._desk, env=self._environment, text=True, **pipes) as process:
            assert process.stdout is not None
            if "--follow" in line:
                said = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert (process.wait(30), process.communicate()[1]) == (INTERRUPTED, "")
                return said
            said, complaint = process.communicate(timeout=60)
            assert (process.returncode, complaint) == (0, ""), line
            return said


def test_the_page_s_commands_do_what_it_says(desk: Path) -> None:
    shell = Shell(desk)
    said = {line: shell.run(line) for line in commands()}
    assert len(said) == 10
    full = [told for line, told in said.items() if line.startswith("ccs ledger backup")]
    assert all(told.startswith("full backup of ") for told in full)
    assert (desk / "backup.key").stat().st_mode & 0o077 == 0
    (kept,) = (told for line, told in said.items() if "restored.toml" in line and "restore " in line)
    assert f"restored: {EVENTS + 1} events and 1 checkpoints are right" in kept
    (newest,) = (told for line, told in said.items() if " tail " in line)
    assert "ledger.restored" in newest.splitlines()[-1]
    assert len(newest.splitlines()) == 5
    rehearsed = [msgspec.json.decode(told) for line, told in said.items() if "rehearsal.toml" in line]
    assert (rehearsed[0]["restored_seq"], rehearsed[0]["persons"], rehearsed[1]["whole"]) == (EVENTS, 1, True)
    (tried,) = (msgspec.json.decode(told) for line, told in said.items() if " rehearse " in line)
    assert tried["restored_seq"] == EVENTS
    assert sorted(path.name for path in (desk / "record").iterdir()) == ["rehearsed.json", "shipped.json"]
    assert trio.run(head_of, desk, "restored") > 120_000


def test_refusals_end_with_their_codes(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ccs(*words: str) -> tuple[int, str]:
        return run(["ledger", *words, "--config", str(desk / "admin.toml")]), capsys.readouterr().err

    place, key, other = desk / "second", desk / "backup.key", desk / "other.key"
    for file in (key, other, place / "inside.key"):
        file.touch(mode=0o600)
        file.write_bytes(os.urandom(32))
    said = [str(place), "--key", str(key)]
    for words, code, told in (
        (["backup", str(place)], 2, "name the backup key"),
        (["backup", str(place), "--key", str(place / "inside.key")], 2, "among the backups"),
        (["backup", str(desk / "nowhere"), "--key", str(key)], 4, "No such file"),
        (["restore", *said], 4, "holds no backup"),
        (["backup", *said, "--json"], 0, ""),
        (["restore", *said], 5, "admin.db exists"),
        (["restore", str(place), "--key", str(other)], 2, "another backup key"),
        (["restore", *said, "--series", "nonsense"], 4, "no series nonsense"),
    ):
        ended, complaint = ccs(*words)
        assert (ended, told in complaint) == (code, True), (words, complaint)
    (segment,) = place.rglob("*.segment")
    raw = segment.read_bytes()
    segment.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    (desk / "admin.db").rename(desk / "away.db")
    ended, complaint = ccs("restore", *said)
    assert (ended, "damaged" in complaint, complaint.count("\n")) == (7, True, 1)
