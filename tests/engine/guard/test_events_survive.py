"""Kill -9 of the receiver's process at each step of an event's way: nothing is lost, and nothing is done twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.events.facts import Change
from engine.guard.event_store import EventStore
from tests.support.killed_guard import write_keys
from tests.support.logged_memory import LoggedMemory
from tests.support.told import TellingService, Told, consent_id

ROOT = Path(__file__).parents[3]


def life(folder: Path, step: str, events: list[Told]) -> tuple[int, int]:
    """One life of the process: how it ended, and how many events it acknowledged."""
    lines = b"".join(told.compact + b"\n" for told in events)
    command = [sys.executable, "-m", "tests.support.killed_guard", str(folder), step]
    done = subprocess.run(command, cwd=ROOT, input=lines, stdout=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout.count(b"202")


@pytest.mark.parametrize(("step", "acknowledged"), [("before", 0), ("kept", 0), ("answered", 1), ("applied", 1)])
def test_killed_at_any_step(step: str, acknowledged: int, tmp_path: Path) -> None:
    service = TellingService()
    granted, revoked = service.change(1, Change.GRANTED), service.change(1, Change.REVOKED)
    write_keys(tmp_path)
    assert life(tmp_path, step, [revoked]) == (-signal.SIGKILL, acknowledged)  # it has overtaken the grant
    again = [] if acknowledged else [revoked]  # after a 202 it never comes again
    assert life(tmp_path, "never", [granted, *again]) == (0, 1 + len(again))
    memory = LoggedMemory(tmp_path / "memory")
    assert memory._consents[consent_id(1)].ended
    assert memory._consents[consent_id(1)].version == 2
    store = EventStore(tmp_path / "events.sqlite")
    assert (store.chain.last_seq, store.due()) == (revoked.seq, [])
    store.close()
    effects = [json.loads(line)[0] for line in (tmp_path / "memory").read_text().splitlines()]
    # Applied, not yet noted: it is applied once more, and the memory is as it was.
    assert effects.count("end") == (2 if step == "applied" else 1)
