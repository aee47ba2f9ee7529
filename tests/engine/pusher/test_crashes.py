"""A pusher that dies at any step, and a world in which everything fails now and then: nothing lost, the same bytes."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import random
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds
from engine.pusher.connections import Unreached
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.service import Fate, Lane
from tests.support.deliveries import ended, granted
from tests.support.push_service import MemoryPushService
from tests.support.pushers import TAKEN, Clocks, Receivers, pusher, until

NEVER = Seconds(1e9)
CALL = Seconds(0.004)  # a call takes its time: whoever does not wait for it is seen


class Death:
    """Ends a pusher at its step number so-and-so: before or after a call was done, before or after a push came."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0
        self.scope = trio.CancelScope()

    def step(self) -> bool:
        """Whether this is the one."""
        self.steps += 1
        if self.steps == self.at:
            self.scope.cancel()
        return self.steps == self.at

    async def receive(self, _content: bytes) -> Reply:
        if self.step():
            raise Unreached(Trouble.BROKEN)
        await trio.lowlevel.checkpoint()
        self.step()
        await trio.lowlevel.checkpoint()
        return TAKEN


async def until_dead(death: Death, service: MemoryPushService, receivers: Receivers) -> None:
    with death.scope:
        await pusher(service, receivers, heartbeat_every=NEVER).run()


async def commit_some(service: MemoryPushService) -> None:
    """While a pusher waits for it, so that signing and pushing are side by side."""
    await trio.sleep(0.5)
    for n in range(2):
        service.commit(granted(n, "edp-1"), "edp-1", lane=Lane.ORDINARY)
        service.commit(ended(n, "edp-1"), "edp-1")


def check(service: MemoryPushService, receivers: Receivers) -> None:
    """Everything came, as it was kept, and what is done has come."""
    kept = {compact: number for number, compact in service.first_bytes.items()}
    sent = {kept[one.content] for one in receivers.pushed}
    assert sent == {number for number, fate in service.fates().items() if fate is Fate.DONE}
    assert sent == service.rows.keys()


STEPS = 44  # of a life without death; more would find nothing more, and one test holds the number to that


@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_pusher_that_dies_at_any_step_is_followed_by_one_that_brings_the_same_bytes(
    nursery: trio.Nursery, autojump_clock: MockClock, at: int
) -> None:
    service, receivers = MemoryPushService(Clocks().wall, latency=CALL), Receivers()
    service.enrol("edp-1")
    death = Death(at)
    service.fails = lambda _call, _when: death.step()
    receivers.behaviours["edp-1"] = death.receive
    nursery.start_soon(until_dead, death, service, receivers)
    await commit_some(service)
    await until(lambda: death.scope.cancelled_caught or not service.pending)
    death.scope.cancel()
    service.fails = lambda _call, _when: False
    receivers.behaviours.clear()
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending)
    await trio.sleep(10)
    check(service, receivers)


async def test_a_life_has_about_as_many_steps_as_are_tried(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    service, receivers = MemoryPushService(Clocks().wall, latency=CALL), Receivers()
    service.enrol("edp-1")
    life = Death(0)
    service.fails = lambda _call, _when: life.step()
    receivers.behaviours["edp-1"] = life.receive
    nursery.start_soon(until_dead, life, service, receivers)
    await commit_some(service)
    await until(lambda: not service.pending)
    assert STEPS - 20 < life.steps <= STEPS
    check(service, receivers)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_fails_everything_comes_in_the_end(
    nursery: trio.Nursery, autojump_clock: MockClock, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311 - a seed
    stormy = True
    service, receivers = MemoryPushService(Clocks().wall, latency=Seconds(0.004)), Receivers()
    service.lease_seconds = Seconds(30.0)
    service.fails = lambda _call, _when: stormy and draw.random() < 0.1
    names = [f"edp-{n}" for n in range(6)]
    done_before: set[bytes] = set()

    async def receive(content: bytes) -> Reply:
        await trio.sleep(draw.random() * 0.2)
        fate = draw.random() if stormy else 1.0
        if fate < 0.1:
            await trio.sleep(5)
            raise Unreached(Trouble.TIMEOUT)
        done_before.add(content)
        return Reply(503) if fate < 0.2 else TAKEN  # it may have stored what it seems to refuse

    for name in names:
        service.enrol(name)
        receivers.behaviours[name] = receive
    lives = [trio.CancelScope() for _ in range(6)]
    for scope in lives:
        nursery.start_soon(in_scope, scope, pusher(service, receivers, jitter=draw.random, heartbeat_every=NEVER).run)
    for n in range(400):
        name = draw.choice(names)
        lane = draw.choice(list(Lane))
        service.commit(ended(draw.randrange(40), name, n + 2), name, lane=lane)
        await trio.sleep(draw.random())
        if n % 80 == 79:
            lives[n // 80].cancel()
    stormy = False
    await until(lambda: not service.pending, within=200_000.0, every=5.0)
    kept = {compact: number for number, compact in service.first_bytes.items()}
    assert {kept[one.content] for one in receivers.pushed} == service.rows.keys()
    assert {kept[content] for content in done_before} == service.rows.keys()
    assert set(service.fates().values()) == {Fate.DONE}


async def in_scope(scope: trio.CancelScope, run: Callable[[], object]) -> None:
    with scope:
        await run()  # type: ignore[misc]  # a coroutine function
