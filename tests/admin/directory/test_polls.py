"""How long a poll waits, and how many of a stream may, under a virtual clock."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it
# ruff: noqa: ARG002 - a queue of one receiver

import itertools
from collections.abc import Collection, Mapping

import pytest
import trio
from trio.testing import MockClock

from admin.directory.poll_views import CEILING, MAX_EVENTS, PollOutstanding, Polls
from admin.directory.stream_forms import PollForm
from admin.ledger.polling import Polled
from admin.ledger.signal import Signal
from engine.consent.records import ClientId, Role
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

STREAM = StreamRecord("poll-1", ClientId("edp-1"), Role.EDP, DeliveryMethod.POLL, StreamStatus.ENABLED)
NOTHING = Polled({}, more=False)


class Queue:
    """Sets of one receiver. asked: how many events each look was for."""

    def __init__(self) -> None:
        self.signed = Signal()
        self.sets: dict[str, str] = {}
        self.asked: list[int] = []
        self.polled_by: dict[str, str] = {}

    async def begin_poll(self, stream_id: str, holder: str, seconds: float) -> bool:
        return self.polled_by.setdefault(stream_id, holder) == holder

    async def end_poll(self, stream_id: str, holder: str) -> None:
        if self.polled_by.get(stream_id) == holder:
            del self.polled_by[stream_id]

    async def poll(
        self, client_id: ClientId, ack: Collection[str], errors: Mapping[str, str], max_events: int
    ) -> Polled:
        await trio.lowlevel.checkpoint()
        for jti in (*ack, *errors):
            self.sets.pop(jti, None)
        self.asked.append(max_events)
        return Polled(dict(list(self.sets.items())[:max_events]), more=len(self.sets) > max_events)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def polls(queue: Queue) -> Polls:
    names = itertools.count()
    return Polls(queue, lambda: f"poll-{next(names)}")


async def test_a_poll_waits_for_thirty_seconds_and_no_longer(polls: Polls, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    assert await polls.poll(STREAM, PollForm()) == NOTHING
    assert trio.current_time() - begun == CEILING == 30.0


async def test_a_poll_that_is_to_return_at_once_does(polls: Polls, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    assert await polls.poll(STREAM, PollForm(return_immediately=True)) == NOTHING
    assert await polls.poll(STREAM, PollForm(max_events=0)) == NOTHING
    assert trio.current_time() == begun


async def test_what_comes_meanwhile_ends_the_wait(polls: Polls, queue: Queue, autojump_clock: MockClock) -> None:
    async def write() -> None:
        await trio.sleep(7.5)
        queue.sets["c1.x"] = "h.p.s"
        queue.signed.ring()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        begun = trio.current_time()
        assert await polls.poll(STREAM, PollForm()) == Polled({"c1.x": "h.p.s"}, more=False)
    assert trio.current_time() - begun == 7.5


async def test_what_another_instance_was_brought_is_seen_within_a_second(
    polls: Polls, queue: Queue, autojump_clock: MockClock
) -> None:
    async def write() -> None:
        await trio.sleep(7.5)
        queue.sets["c1.x"] = "h.p.s"  # and nobody rings here

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        begun = trio.current_time()
        assert (await polls.poll(STREAM, PollForm())).sets
    assert trio.current_time() - begun == 8.0


async def test_one_poll_of_a_stream_waits_and_others_are_refused(polls: Polls, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polls.poll, STREAM, PollForm())
        await trio.sleep(29.0)
        with pytest.raises(PollOutstanding):
            await polls.poll(STREAM, PollForm(return_immediately=True))
        await trio.sleep(1.5)
        assert await polls.poll(STREAM, PollForm(return_immediately=True)) == NOTHING


async def test_nobody_gets_more_at_once_than_may_be(polls: Polls, queue: Queue) -> None:
    await polls.poll(STREAM, PollForm(max_events=10 * MAX_EVENTS, return_immediately=True))
    assert max(queue.asked) == MAX_EVENTS
