"""How deliveries are signed together, and who goes on before the next are."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.clock import Seconds
from engine.events.facts import PartyFact
from engine.pusher import signing as module
from engine.pusher.lease import Tenure
from engine.pusher.service import Delivery
from engine.pusher.signing import Signing
from tests.support.deliveries import AT, ATP, ended
from tests.support.push_service import MemoryPushService
from tests.support.pushers import Receivers, pusher, until


class Held:
    """A lease, as far as signing looks at it."""

    epoch = 0


async def test_an_event_to_two_hundred_receivers_is_kept_by_one_call(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    names = [f"edp-{number}" for number in range(200)]
    for name in names:
        service.enrol(name)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=Seconds(1e9)).run)
    await trio.sleep(1)
    service.commit(PartyFact(ATP, 1, suspended=True, recorded_at=AT), *names)
    await until(lambda: not service.pending)
    assert len(receivers.pushed) == len(names)
    assert service.calls["keep"] == 1


async def test_what_was_kept_goes_on_before_the_next_are_signed(
    service: MemoryPushService, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    service.enrol("edp-1")
    log: list[str] = []

    def make(delivery: Delivery) -> bytes:
        log.append("signed")
        return b"bytes"

    async def wait(signing: Signing, delivery: Delivery) -> None:
        await signing.signed(delivery)
        log.append("goes on")

    signing = Signing(service, cast("Tenure", Held()), make)
    async with trio.open_nursery() as waiting:
        for number in range(6):
            [delivery] = service.commit(ended(number, "edp-1"), "edp-1")
            waiting.start_soon(wait, signing, delivery)
        await wait_all_tasks_blocked()
        nursery.start_soon(signing.run)
    assert log == ["signed", "signed", "goes on", "goes on"] * 3
