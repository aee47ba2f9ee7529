"""A ledger that was restored, and a guard that had heard what was lost: in the end it knows what the ledger knows.

The ledger's side of it, on real databases, is in `tests/contracts/recovery.py`.
"""

import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.events.facts import Change
from engine.guard.transmitter import Unreachable
from engine.guard.watch import Standing
from tests.support.event_guards import EventGuard
from tests.support.events import ATP
from tests.support.guard_memory import InMemory
from tests.support.told import TellingService

Step = tuple[str, int]  # what, and of which kind or how much
STEPS = st.one_of(
    st.tuples(st.sampled_from(["suspended", "reinstated"]), st.sampled_from([0, 1])),  # 1: the guard hears of it
    st.tuples(st.just("restore"), st.integers(1, 3)),  # so many events are lost
    st.tuples(st.sampled_from(["heartbeat", "restart", "granted"]), st.just(1)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite"


def is_stopped(guard: EventGuard) -> bool:
    assert isinstance(guard.memory, InMemory)
    return guard.memory.is_suspended(ATP)


async def hear_heartbeat(guard: EventGuard, service: TellingService) -> None:
    """As it comes each minute, and what the guard does about it in the seconds after it."""
    guard.clock.forward(60)
    await guard.push(service.heartbeat(guard.clock.now()))
    for _ in range(2):
        at, why = guard.watch.next_ask()
        if at <= guard.clock.boot():
            await guard.following._ask(why)
        guard.clock.forward(6)


class Play:
    """One guard through its lives, and one service through its restores."""

    def __init__(self, path: Path) -> None:
        self.path, self.service = path, TellingService()
        self.guard = EventGuard(path, self.service)

    async def do(self, step: Step) -> None:
        what, how = step
        if what in ("suspended", "reinstated"):
            told = self.service.party(suspended=what == "suspended")
            if how:
                await self.guard.push(told.compact)
                assert is_stopped(self.guard) or what != "suspended", "a new suspension was taken for an old one"
        elif what == "granted":
            await self.guard.push(self.service.change(len(self.service.history), Change.GRANTED).compact)
        elif what == "restore":
            self.service.restore(max(0, len(self.service.history) - how))
        elif what == "restart":
            self.guard.close()
            self.guard = EventGuard(self.path, self.service, memory=self.guard.memory, clock=self.guard.clock)
        else:
            await hear_heartbeat(self.guard, self.service)


@given(st.lists(STEPS, max_size=12))
@example([("heartbeat", 1), ("suspended", 1), ("reinstated", 1), ("restore", 2), ("suspended", 1)])
@example([("heartbeat", 1), ("suspended", 1), ("reinstated", 1), ("restore", 1)])
@example([("heartbeat", 1), ("suspended", 1), ("restore", 1), ("granted", 1)])
@example([("suspended", 1), ("restore", 1), ("granted", 1)])  # all of it before the guard's first listing
@settings(max_examples=150, deadline=None)
def test_after_any_restores_the_guard_knows_of_a_party_what_the_ledger_knows(steps: list[Step]) -> None:
    async def play(path: Path) -> None:
        played = Play(path)
        for step in steps:
            await played.do(step)
        await hear_heartbeat(played.guard, played.service)
        assert is_stopped(played.guard) == played.service.suspended().get(ATP, False)
        assert played.guard.intake.standing() is Standing.WHOLE
        assert played.guard.memory.missing_since() is None
        played.guard.close()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(play, Path(folder) / "events.sqlite")


async def healed(path: Path) -> tuple[EventGuard, TellingService]:
    """A guard that has listed, and has heard that the ATP was stopped and may go on."""
    service = TellingService()
    guard = EventGuard(path, service)
    await hear_heartbeat(guard, service)
    for suspended in (True, False):
        await guard.push(service.party(suspended=suspended).compact)
    return guard, service


async def test_a_heartbeat_of_a_restored_ledger_makes_the_guard_take_the_snapshot(path: Path) -> None:
    guard, service = await healed(path)
    service.restore(1)  # that it may go on is lost
    service.calls.clear()
    await hear_heartbeat(guard, service)
    assert "snapshot" in service.calls
    assert is_stopped(guard)
    service.calls.clear()
    await hear_heartbeat(guard, service)
    assert service.calls == [], "once is enough"


async def test_a_heartbeat_of_before_the_restore_that_comes_late_changes_nothing(path: Path) -> None:
    guard, service = await healed(path)
    guard.clock.forward(60)
    service.restore(1)
    late = service.heartbeat(guard.clock.now())
    service.restore(1)
    await hear_heartbeat(guard, service)
    service.calls.clear()
    await guard.push(late)
    assert not guard.watch.is_restored


async def test_while_the_ledger_recovers_it_is_asked_again_and_nothing_counts_as_missing(path: Path) -> None:
    """It lists nothing until it is live, and answers of what was known before it was lost stay what they are."""
    guard, service = await healed(path)
    service.restore(1)
    service.fails = Unreachable("503")
    for _ in range(4):
        await hear_heartbeat(guard, service)
    assert guard.watch.is_restored
    assert guard.memory.missing_since() is None
    service.fails = None
    await hear_heartbeat(guard, service)
    assert (guard.watch.is_restored, is_stopped(guard)) == (False, True)


async def test_a_guard_that_never_listed_and_heard_of_what_was_lost_takes_the_snapshot(path: Path) -> None:
    """Its place lies in front of a hole that poll cannot fill any more, so the service cannot tell by it."""
    service = TellingService()
    guard = EventGuard(path, service)
    service.change(1, Change.GRANTED)
    await guard.push(service.party(suspended=True).compact)
    assert is_stopped(guard)
    service.restore(1)
    service.unacknowledged.clear()
    await hear_heartbeat(guard, service)
    assert not is_stopped(guard)
    assert guard.intake.standing() is Standing.WHOLE


async def test_up_to_where_it_was_listed_outlives_the_process(path: Path) -> None:
    guard, service = await healed(path)
    service.restore(1)
    await hear_heartbeat(guard, service)
    guard.store.note(sound_at=guard.clock.now())
    guard.close()
    again = EventGuard(path, service, memory=guard.memory, clock=guard.clock)
    assert not again.store.is_of_later_ledger("f" * 16, service.restored_at)
    assert again.store.is_of_later_ledger("f" * 16, service.restored_at + 1)
    again.close()
