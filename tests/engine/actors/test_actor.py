"""Mailboxes are bounded, actors keep one state, supervisors restart with back-off and give up loudly."""

from typing import Any

import pytest
import trio
import trio.testing

from engine.actors.actor import Actor
from engine.actors.mailbox import Mailbox, MailboxFull, MailboxStatistics
from engine.actors.supervisor import GaveUp, Life, Patience, Supervision
from engine.backoff import Backoff
from engine.clock import Seconds


def test_full_mailbox_refuses_and_counts() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    mailbox.post_nowait(1)
    mailbox.post_nowait(2)
    with pytest.raises(MailboxFull):
        mailbox.post_nowait(3)
    assert mailbox.statistics() == MailboxStatistics(size=2, waiting=2, peak=2, posted=2, refused=1)


def test_mailbox_without_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="bounded"):
        Mailbox(0)


async def test_messages_are_taken_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    for number in range(3):
        mailbox.post_nowait(number)
    assert [await mailbox.take() for _ in range(3)] == [0, 1, 2]


async def add(state: int, message: int) -> int:
    await trio.lowlevel.checkpoint()
    if message < 0:
        raise ValueError("negative")
    return state + message


async def test_actor_folds_messages_into_its_state(nursery: trio.Nursery) -> None:
    actor = Actor(lambda: 0, add, size=10)
    await nursery.start(actor.run)
    for number in (1, 2, 3):
        actor.mailbox.post_nowait(number)
    await actor.mailbox.wait_idle()
    assert actor.state == 6


async def test_idle_actor_is_idle_at_once(autojump_clock: trio.testing.MockClock) -> None:
    actor = Actor(lambda: 0, add, size=1)
    with trio.fail_after(1):
        await actor.mailbox.wait_idle()
    assert autojump_clock.current_time() < 1


async def test_actor_begins_anew_after_a_failure(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    actor = Actor(lambda: 0, add, size=10)
    supervision = Supervision("adder", actor.run)
    await nursery.start(supervision.run)
    for number in (5, -1, 2):
        actor.mailbox.post_nowait(number)
    await actor.mailbox.wait_idle()
    await supervision.wait_for(Life.RUNNING)
    await actor.mailbox.wait_idle()
    assert actor.state == 2
    assert supervision.statistics().restarts == 1
    assert autojump_clock.current_time() < 1


class Failing:
    """A service that fails a number of times; each try lives so long."""

    def __init__(self, failures: int, *, lives: float = 0.0, ready: bool = True) -> None:
        self.left = failures
        self.lives = lives
        self.ready = ready
        self.began: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None:
        self.began.append(trio.current_time())
        if self.ready:
            task_status.started("ready")
        await trio.sleep(self.lives)
        if self.left:
            self.left -= 1
            raise RuntimeError("failed")


async def test_first_retry_is_at_once_and_later_ones_wait(autojump_clock: trio.testing.MockClock) -> None:
    service = Failing(4)
    patience = Patience(Backoff(first=Seconds(1.0), limit=Seconds(3.0)))
    await Supervision("service", service.run, patience, jitter=lambda: 1.0).run()
    gaps = [round(later - earlier, 6) for earlier, later in zip(service.began, service.began[1:], strict=False)]
    assert gaps == [0, 1, 2, 3]
    assert autojump_clock.current_time() >= 6


async def test_healthy_minute_forgets_failures(autojump_clock: trio.testing.MockClock) -> None:
    service = Failing(50, lives=61.0)
    supervision = Supervision("service", service.run, Patience(after_ready=2))
    await supervision.run()
    statistics = supervision.statistics()
    assert (statistics.life, statistics.restarts, statistics.failures) == (Life.FINISHED, 50, 1)
    assert autojump_clock.current_time() < 51 * 62


async def test_gives_up_after_failures_in_a_row(autojump_clock: trio.testing.MockClock) -> None:
    supervision = Supervision("service", Failing(100).run, Patience(after_ready=3))
    with pytest.raises(GaveUp, match="service failed 3 times in a row: RuntimeError"):
        await supervision.run()
    assert supervision.statistics().life is Life.GAVE_UP
    assert autojump_clock.current_time() < 100


async def test_service_never_ready_has_its_own_patience(autojump_clock: trio.testing.MockClock) -> None:
    supervision = Supervision("service", Failing(100, ready=False).run, Patience(before_ready=2, after_ready=None))
    with pytest.raises(GaveUp):
        await supervision.run()
    assert supervision.statistics().failures == 2
    assert autojump_clock.current_time() < 100


async def test_readiness_is_passed_on_once(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    supervision = Supervision("service", Failing(3, lives=1.0).run)
    assert await nursery.start(supervision.run) == "ready"
    await supervision.wait_for(Life.FINISHED)
    assert supervision.statistics().restarts == 3
    assert autojump_clock.current_time() < 100
