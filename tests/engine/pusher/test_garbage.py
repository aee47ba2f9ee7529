"""A pusher's garbage collector makes its rounds seldom, and may: pushes leave it nothing."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import gc
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId
from engine.events.facts import PartyFact
from engine.pusher.garbage import THRESHOLDS, make_rounds_rare
from tests.support.deliveries import AT
from tests.support.push_service import MemoryPushService
from tests.support.pushers import Receivers, pusher, until

EDPS = [f"edp-{number}" for number in range(50)]


def stop(version: int) -> PartyFact:
    """It concerns every EDP."""
    return PartyFact(ClientId("atp-1"), version, suspended=True, recorded_at=UnixTime(int(AT)))


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    before = gc.get_threshold()
    yield
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_was_there_at_the_start_is_in_no_round(collector: None) -> None:
    frozen = gc.get_freeze_count()
    make_rounds_rare()
    assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == THRESHOLDS


async def test_fifty_pushes_leave_no_cycles(
    service: MemoryPushService,
    receivers: Receivers,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    collector: None,
) -> None:
    for name in EDPS:
        service.enrol(name)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=Seconds(1e9)).run)
    service.commit(stop(1), *EDPS)
    await until(lambda: not service.pending)
    gc.collect()
    gc.disable()
    service.commit(stop(2), *EDPS)
    await until(lambda: not service.pending)
    assert len(receivers.pushed) == 2 * len(EDPS)
    assert gc.collect() < len(EDPS), "a cycle has two members at least"
