"""The corpus keeps its promises, the checks can fail, and a coverage-guided run of some seconds finds nothing new."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.listener.http1 import Event, HeadLimits, HeadMemo, Refused, Request, ServerConnection
from tests.fuzz import http_invariants
from tests.fuzz.inputs import CHECKS, CORPUS, FINDS, check

SECONDS = int(os.environ.get("CCS_FUZZ_SECONDS", "60" if os.environ.get("CI") == "true" else "5"))
ENTRIES = sorted(CORPUS.iterdir())
HONEST = b"CPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_no_rule_is_broken_by(entry: Path) -> None:
    check(entry.read_bytes())


def test_corpus_is_small_and_serves_every_check() -> None:
    read = [entry.read_bytes() for entry in ENTRIES]
    assert sum(map(len, read)) < 200_000
    assert {raw[:1] for raw in read} >= CHECKS.keys()


@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no wheel of atheris for this platform")
def test_a_run_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS), "--finds", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    for found in tmp_path.glob("*-*"):  # an input that broke a rule outlives the test
        FINDS.mkdir(exist_ok=True)
        (FINDS / found.name).write_bytes(found.read_bytes())
    assert run.returncode == 0, run.stderr[-4000:]


# --- the checks can fail ----------------------------------------------------------------------------------------------


class _Deaf(ServerConnection):
    """Forgets the first byte of each arrival but the first."""

    arrivals = 0

    def receive_data(self, data: bytes) -> None:
        self.arrivals += 1
        super().receive_data(data if self.arrivals == 1 else data[1:])


class _Forgiving(ServerConnection):
    """Reads on after a refusal."""

    def next_event(self) -> Event:
        event = super().next_event()
        if isinstance(event, Refused):
            self.__init__(HeadLimits())  # type: ignore[misc] - all that it knew is gone
        return event


class _Lenient(ServerConnection):
    """Takes a space for part of a name."""

    def receive_data(self, data: bytes) -> None:
        super().receive_data(data.replace(b" :", b":"))


class _Stern(ServerConnection):
    """Refuses what there is no reason to refuse."""

    def next_event(self) -> Event:
        event = super().next_event()
        return Refused(400, "no reason") if isinstance(event, Request) else event


class _Hoarding(ServerConnection):
    """Keeps all that ever arrived."""

    def __init__(self, limits: HeadLimits, memo: HeadMemo | None = None) -> None:
        super().__init__(limits, memo)
        self.kept = b""

    def receive_data(self, data: bytes) -> None:
        self.kept += data
        super().receive_data(data)


class _Confused(ServerConnection):
    """With a memo, takes the first head that it remembers for every other."""

    def next_event(self) -> Event:
        event = super().next_event()
        known = getattr(self._memo, "known", None)
        if isinstance(event, Request) and self._memo._max_head:
            self._memo.known = known or event  # type: ignore[attr-defined] - a flaw of this test's own
            return known or event
        return event


@pytest.mark.parametrize(
    ("flawed", "raw"),
    [
        (_Deaf, HONEST),
        (_Forgiving, b"Cnonsense\r\n\r\n"),
        (_Lenient, b"CGET / HTTP/1.1\r\nHost : x\r\n\r\n"),
        (_Stern, HONEST),
        (_Hoarding, HONEST + HONEST[1:] * 60),
        (_Confused, b"CGET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
def test_a_flaw_is_found(monkeypatch: pytest.MonkeyPatch, flawed: type[ServerConnection], raw: bytes) -> None:
    monkeypatch.setattr(http_invariants, "ServerConnection", flawed)
    with pytest.raises(AssertionError):
        check(raw)


@pytest.mark.parametrize("raw", [b"", b"C", b"F", b"R", b"T", b"Z"])
def test_inputs_of_hardly_any_length_are_read(raw: bytes) -> None:
    check(raw)
