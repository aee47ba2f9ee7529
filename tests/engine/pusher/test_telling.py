"""What was parked goes out again when its receiver is back, however much else is told meanwhile."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime
from engine.events.facts import VerificationFact
from engine.pusher.schedule import Reply
from engine.pusher.service import Fate
from tests.support.deliveries import AT, ended
from tests.support.push_service import MemoryPushService
from tests.support.pushers import TAKEN, Behaviour, Receivers, always, pusher, until

NEVER = Seconds(1e9)  # for heartbeats


async def test_others_outcomes_do_not_keep_what_was_parked_waiting(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Each receiver's one after the other takes longer than a call to tell: there is always something to be told."""
    stream = service.enrol("edp-1")
    service.latency = Seconds(0.03)
    receivers.behaviours["edp-1"] = always(Reply(404))
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    [parked] = service.commit(ended(0, "edp-1"), "edp-1")
    await until(lambda: service.fates()[parked.number] is Fate.PARKED)
    for number, takes in enumerate((0.011, 0.013, 0.017), start=2):
        busy = f"edp-{number}"
        service.enrol(busy)
        receivers.behaviours[busy] = after(Seconds(takes))
        for version in range(500):
            service.commit(ended(number, busy, version + 1), busy)
    await trio.sleep(1)
    receivers.behaviours["edp-1"] = always(TAKEN)
    service.commit(VerificationFact(stream.stream_id, UnixTime(AT), state="mine"), "edp-1")
    await until(lambda: service.fates()[parked.number] is Fate.DONE, within=2)
    assert service.pending, "the others are still at it"


async def test_what_is_parked_but_not_told_yet_is_freed_with_the_rest(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Freed before it is told, it would stay parked until the receiver is down and back once more."""
    stream = service.enrol("edp-1")
    answers = iter([Reply(404)])
    is_away = True

    async def behave(_: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return next(answers, TAKEN)

    receivers.behaviours["edp-1"] = behave
    service.fails = lambda call, when: is_away and (call, when) == ("tell", "before")
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    [parked] = service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: len(receivers.pushed) == 1)
    service.commit(VerificationFact(stream.stream_id, UnixTime(AT), state="mine"), "edp-1")
    await until(lambda: len(receivers.pushed) == 2)
    await trio.sleep(1)
    assert service.calls["tell"] > 1
    assert service.fates()[parked.number] is Fate.AGAIN, "it is not told"
    is_away = False
    await until(lambda: service.fates()[parked.number] is Fate.DONE, within=120)
    assert len(receivers.pushed) == 3


def after(seconds: Seconds) -> Behaviour:
    """Takes everything, and so much time for it."""

    async def behave(_: bytes) -> Reply:
        await trio.sleep(seconds)
        return TAKEN

    return behave
