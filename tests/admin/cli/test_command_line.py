"""What holds for every `ccs` command: help, flags, and a reader that goes away."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cyclopts import App

from admin.cli import READER_GONE, app, command_line


def commands(of: App, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command that does something, as it is typed."""
    found = [name for name in of if not name.startswith("-")]
    if not found:
        yield above
    for name in found:
        yield from commands(of[name], *above, name)


COMMANDS = list(commands(command_line()))


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        command_line(words)([*words, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


def test_the_groups_are_looked_into() -> None:
    assert {("up",), ("node",), ("ledger", "tail"), ("replica", "stat"), ("sandbox", "revoke")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_teaches_the_exit_codes(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "xit code" in help_of(*words, capsys=capsys)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_flags_have_no_negative(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--no-" not in help_of(*words, capsys=capsys)


@pytest.mark.parametrize("words", [("status",), ("replica", "stat"), ("ledger", "verify"), ("ledger", "tail")])
def test_json_is_asked_for_in_one_way(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json " in help_of(*words, capsys=capsys)


def test_the_list_has_a_line_for_each_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys=capsys)
    assert all(name in text for name in app if not name.startswith("-"))
    assert "Run one engine node of a real installation." in text
    script = "import sys; from admin.cli import run; run(['--help']); print('admin.cli.up' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_reader_that_goes_away_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "admin.cli", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (READER_GONE, b"")


def test_wrong_use_ends_with_two() -> None:
    words = [sys.executable, "-m", "admin.cli", "status", "--bogus"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--bogus" in done.stderr
