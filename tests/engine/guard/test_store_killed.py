"""A real process is killed while it writes, or its disk is full: what it had said was done is there."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from engine.clock import UnixTime
from engine.guard import config
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_chain import Checked, check_lines, line_of
from tests.support.guard_store_writer import consent
from tests.support.guard_stores import OWNER, Wall, opened, store_settings
from tests.support.known_tokens import NOW, known_consent, known_token

ROOT = Path(__file__).parents[3]
KILLS = 20


def written(directory: Path, first: int, lines: int, *options: str) -> list[str]:
    """What a process says until it is killed, which is just after so many lines and in the midst of more."""
    command = [sys.executable, "-m", "tests.support.guard_store_writer", str(directory), str(first), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(lines)]
    process.kill()
    rest = process.stdout.read()
    process.wait()
    process.stdout.close()
    whole = rest.splitlines() if rest.endswith("\n") or not rest else rest.splitlines()[:-1]
    return [line for line in (*said, *whole) if line]


def check(directory: Path, said: list[str]) -> None:
    """Everything that was said is so."""
    log = EvidenceLog(config.Evidence(), store_settings(directory), OWNER, Wall())
    lines = [line_of(link) for link in log.links()]
    assert check_lines(lines) == Checked(len(lines))
    with opened(directory) as store:
        assert store.statistics().guarding + store.statistics().garbage > 0
        for line in said:
            word, _, what = line.partition(" ")
            if word == "end":
                known = known_token(f"after {what}", consents=(known_consent(consent(int(what))),))
                store.remember(known)
                assert store.look(known.digest) is None, line
            elif word == "together":
                refused = known_token(f"refused {what}")
                store.remember(refused)
                assert store.look(refused.digest) is None, line
                stopped = known_token(f"stopped {what}", client_id=f"atp-{what}")
                store.remember(stopped)
                assert store.look(stopped.digest) is None, line
            elif word == "record":
                assert log.read(what) is not None, line
        marks = [line for line in said if line.startswith(("missing", "whole"))]
        last = marks[-1].split() if marks else ["", ""]
        if last[0] == "missing":
            since = store.missing_since()
            assert since is not None
            assert since <= UnixTime(NOW - int(last[1]))
    log.close()


def test_what_was_said_to_be_done_outlives_every_kill(tmp_path: Path) -> None:
    rng = random.Random(1)  # noqa: S311 - moments of death, not secrets
    said: list[str] = []
    for kill in range(KILLS):
        new = written(tmp_path, kill * 10_000, rng.randint(1, 60))
        assert new[0] == "open"
        assert "full" not in new
        said = [line for line in said if not line.startswith(("missing", "whole"))] + new
    check(tmp_path, said)
    assert list((tmp_path / "store").glob("*.aside-*")) == [], "no kill made a store look broken"


@pytest.mark.parametrize("more", [20_000, 150_000])
def test_full_disk_refuses_and_loses_nothing(tmp_path: Path, more: int) -> None:
    with opened(tmp_path):
        pass
    said = written(tmp_path, 0, 120, str(more))
    assert "full" in said
    assert said[0] == "open"
    check(tmp_path, said)
    assert list((tmp_path / "store").glob("*.aside-*")) == []
