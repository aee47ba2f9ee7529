"""Kill -9 of the receiver's process at each step of an event's way: nothing is lost, and nothing is done twice."""

import json
import random
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from engine.events.facts import Change
from engine.guard import events as guard_events
from engine.guard.config import GuardConfig
from engine.guard.events import GuardEvents
from engine.guard.guard import Guard
from engine.guard.memory import MemoryFull
from engine.guard.shares import Reason
from tests.support.event_files import event_store_at, store_beside
from tests.support.guard_stand import A, MovedClock, Nodes, Recorded, answers, config
from tests.support.guard_words import entry, share
from tests.support.killed_guard import write_keys
from tests.support.logged_memory import LoggedMemory
from tests.support.told import HandClock, TellingService, Told, consent_id

ROOT = Path(__file__).parents[3]
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def life(folder: Path, step: str, events: list[Told]) -> tuple[int, int]:
    """One life of the process: how it ended, and how many events it acknowledged."""
    lines = b"".join(told.compact + b"\n" for told in events)
    command = [sys.executable, "-m", "tests.support.killed_guard", str(folder), step]
    done = subprocess.run(command, cwd=ROOT, input=lines, stdout=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout.count(b"202")


@pytest.mark.parametrize(("step", "acknowledged"), [("before", 0), ("kept", 0), ("applied", 0), ("answered", 1)])
def test_killed_at_any_step(step: str, acknowledged: int, tmp_path: Path) -> None:
    service = TellingService()
    granted, revoked = service.change(1, Change.GRANTED), service.change(1, Change.REVOKED)
    write_keys(tmp_path)
    assert life(tmp_path, step, [revoked]) == (-signal.SIGKILL, acknowledged)  # it has overtaken the grant
    if acknowledged:
        assert LoggedMemory(tmp_path / "memory").has_ended(consent_id(1)), "applied before it was acknowledged"
    again = [] if acknowledged else [revoked]  # after a 202 it never comes again
    assert life(tmp_path, "never", [granted, *again]) == (0, 1 + len(again))
    memory = LoggedMemory(tmp_path / "memory")
    assert memory._consents[consent_id(1)].ended
    assert memory._consents[consent_id(1)].version == 2
    store = event_store_at(tmp_path / "events.sqlite")
    assert (store.chain.last_seq, store.due()) == (revoked.seq, [])
    store.close()
    assert aside_in(tmp_path) == [], "no kill made a file look broken"
    effects = [json.loads(line)[0] for line in (tmp_path / "memory").read_text().splitlines()]
    # Applied, not yet noted: it is applied once more, and the memory is as it was.
    assert effects.count("end") == (2 if step == "applied" else 1)


def aside_in(folder: Path) -> list[Path]:
    return list(folder.glob("events.sqlite.aside-*"))


def test_killed_while_one_event_comes_after_the_other(tmp_path: Path) -> None:
    """Wherever in its writes that is, the file is whole, and everything that was acknowledged is in it."""
    service, rng = TellingService(), random.Random(3)  # noqa: S311 - moments of death, not secrets
    told = [service.change(number, Change.GRANTED) for number in range(300)]
    write_keys(tmp_path)
    acknowledged = 0
    for _ in range(3):
        acknowledged += life_until(tmp_path, told[acknowledged:], rng.randint(1, 40))
        store = event_store_at(tmp_path / "events.sqlite")
        assert (store.anew, aside_in(tmp_path)) == (0, [])
        assert (store.chain.last_seq >= told[acknowledged - 1].seq, store.chain.has_hole) == (True, False)
        assert not {event.jti for event in store.due()} & {one.jti for one in told[:acknowledged]}
        store.close()
    assert acknowledged < len(told)


def life_until(folder: Path, events: list[Told], acknowledged: int) -> int:
    """One life that is ended from outside after so many acknowledgements; how many there were in the end."""
    pushes = folder / "pushes"
    pushes.write_bytes(b"".join(told.compact + b"\n" for told in events))
    command = [sys.executable, "-m", "tests.support.killed_guard", str(folder), "never"]
    with (
        pushes.open("rb") as lines,
        subprocess.Popen(command, cwd=ROOT, stdin=lines, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        for _ in range(acknowledged):
            assert process.stdout.readline() == b"202\n"
        process.kill()
        return acknowledged + process.stdout.read().count(b"202")


async def test_what_was_kept_is_applied_before_the_first_share_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Killed between the two; then a node that has not heard of the end either says yes."""
    killed_before_applying(tmp_path)
    monkeypatch.setattr(guard_events, "service_tls", lambda _: TLS)
    memory = LoggedMemory(tmp_path / "memory")
    assert not memory.has_ended(consent_id(1))
    nodes, clock = Nodes(A), MovedClock(autojump_clock)
    nodes.all(answers(entry(consent_id=consent_id(1)), ccs_freshness="last_known"))
    config = config_in(tmp_path)
    guard = Guard(config, memory=memory, evidence=Recorded(), transport=nodes, clock=clock)
    async with guard, GuardEvents(config, memory, clock, jitter=lambda: 0.5) as events:
        verdict = await guard.check(share())
        assert (verdict.allowed, verdict.reason) == (False, Reason.NOT_ACTIVE)
        assert events.status().ahead == 1  # its grant has not come, and an end does not wait for it


async def test_entering_that_is_cut_off_or_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_applying(tmp_path)
    monkeypatch.setattr(guard_events, "service_tls", lambda _: TLS)
    memory, config = LoggedMemory(tmp_path / "memory"), config_in(tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        await entered(config, memory)
    assert scope.cancelled_caught
    with monkeypatch.context() as patched:
        patched.setattr(memory, "end", full)
        with pytest.raises(MemoryFull):
            await entered(config, memory)
    assert not memory.has_ended(consent_id(1))
    await entered(config, memory)
    assert memory.has_ended(consent_id(1))


async def entered(config: GuardConfig, memory: LoggedMemory) -> None:
    async with GuardEvents(config, memory, HandClock(), jitter=lambda: 0.5):
        pass


def killed_before_applying(folder: Path) -> None:
    service = TellingService()
    service.change(1, Change.GRANTED)
    revoked = service.change(1, Change.REVOKED)
    write_keys(folder)
    assert life(folder, "kept", [revoked]) == (-signal.SIGKILL, 0)


def config_in(folder: Path) -> GuardConfig:
    return msgspec.structs.replace(config(A), store=store_beside(folder / "events.sqlite"))


def full(*_: object) -> None:
    raise MemoryFull("full")
