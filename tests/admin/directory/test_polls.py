"""How long a poll waits, and how many of a stream may, under a virtual clock."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it
# ruff: noqa: ARG002 - a queue of one receiver

import itertools
from collections.abc import Collection, Iterable, Mapping
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock

from admin.callers import SuspendedCaller
from admin.directory.poll_views import CEILING, MAX_EVENTS, Again, PollOutstanding, Polls
from admin.directory.stream_forms import PollForm
from admin.directory.streams import UnknownStream
from admin.ledger.polling import Polled
from admin.ledger.signal import Signal
from admin.ledger.store import LedgerUnavailable
from engine.consent.records import ClientId, Role
from engine.errors import Fault
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

STREAM = StreamRecord("poll-1", ClientId("edp-1"), Role.EDP, DeliveryMethod.POLL, StreamStatus.ENABLED)
NOTHING = Polled({}, more=False)


class Queue:
    """Sets of one receiver, edp-1. asked: how many events each look was for. looks: how many there were for many."""

    def __init__(self) -> None:
        self.signed = Signal()
        self.sets: dict[str, str] = {}
        self.own: dict[str, str] = {}  # about the stream itself
        self.asked: list[int] = []
        self.polled_by: dict[str, str] = {}
        self.looks = 0
        self.fault: Fault | None = None

    async def bring_later(self, *, own: Iterable[tuple[str, str]] = (), ring: bool = True) -> None:
        """In 7.5 seconds a set is there, with what is told of the stream itself. ring: whoever waits hears of it."""
        await trio.sleep(7.5)
        self.sets["c1.x"] = "h.p.s"
        self.own |= own
        if ring:
            self.signed.ring()

    async def with_open(self, client_ids: Collection[ClientId]) -> Collection[ClientId]:
        await trio.lowlevel.checkpoint()
        self.looks += 1
        if self.fault:
            raise self.fault
        return [one for one in client_ids if one == "edp-1" and self.sets]

    async def about_stream(self, client_id: ClientId, stream_id: str, max_events: int) -> Polled:
        await trio.lowlevel.checkpoint()
        return Polled(dict(list(self.own.items())[:max_events]), more=len(self.own) > max_events)

    async def begin_poll(self, stream_id: str, holder: str, seconds: float) -> bool:
        return self.polled_by.setdefault(stream_id, holder) == holder

    async def end_poll(self, stream_id: str, holder: str) -> None:
        if self.polled_by.get(stream_id) == holder:
            del self.polled_by[stream_id]

    async def poll(
        self, client_id: ClientId, ack: Collection[str], errors: Mapping[str, str], max_events: int
    ) -> Polled:
        await trio.lowlevel.checkpoint()
        if self.fault:
            raise self.fault
        for jti in (*ack, *errors):
            self.sets.pop(jti, None)
        self.asked.append(max_events)
        if client_id != "edp-1":
            return NOTHING
        return Polled(dict(list(self.sets.items())[:max_events]), more=len(self.sets) > max_events)


def standing(stream: StreamRecord) -> Again:
    """Whoever looks again finds this."""

    async def again() -> StreamRecord:
        await trio.lowlevel.checkpoint()
        return stream

    return again


class Unchanged(Polls):
    """Streams stand as they stood when the poll came, where a test says nothing else."""

    async def poll(self, stream: StreamRecord, form: PollForm, again: Again | None = None) -> Polled:
        return await super().poll(stream, form, again or standing(stream))


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def polls(queue: Queue) -> Unchanged:
    names = itertools.count()
    return Unchanged(queue, lambda: f"poll-{next(names)}")


async def test_a_poll_waits_for_thirty_seconds_and_no_longer(polls: Unchanged, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    assert await polls.poll(STREAM, PollForm()) == NOTHING
    assert trio.current_time() - begun == CEILING == 30.0


async def test_a_poll_that_is_to_return_at_once_does(polls: Unchanged, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    assert await polls.poll(STREAM, PollForm(return_immediately=True)) == NOTHING
    assert await polls.poll(STREAM, PollForm(max_events=0)) == NOTHING
    assert trio.current_time() == begun


async def test_what_comes_meanwhile_ends_the_wait(polls: Unchanged, queue: Queue, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.bring_later)
        begun = trio.current_time()
        assert await polls.poll(STREAM, PollForm()) == Polled({"c1.x": "h.p.s"}, more=False)
    assert trio.current_time() - begun == 7.5


async def test_what_another_instance_was_brought_is_seen_within_a_second(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(queue.bring_later, ring=False))
        begun = trio.current_time()
        assert (await polls.poll(STREAM, PollForm())).sets
    assert trio.current_time() - begun == 8.0


async def test_a_poll_that_is_refused_has_acknowledged_all_the_same(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    """A receiver that was restarted meets its own poll of before, and must not be given again what it has kept."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polls.poll, STREAM, PollForm())
        await trio.sleep(1.5)  # between two looks of the one that waits
        queue.sets = {"kept": "a set", "other": "a set"}
        with pytest.raises(PollOutstanding):
            await polls.poll(STREAM, PollForm(ack=("kept",)))
        assert list(queue.sets) == ["other"]
        nursery.cancel_scope.cancel()


async def test_one_poll_of_a_stream_waits_and_others_are_refused(polls: Unchanged, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polls.poll, STREAM, PollForm())
        await trio.sleep(29.0)
        with pytest.raises(PollOutstanding):
            await polls.poll(STREAM, PollForm(return_immediately=True))
        await trio.sleep(1.5)
        assert await polls.poll(STREAM, PollForm(return_immediately=True)) == NOTHING


async def test_nobody_gets_more_at_once_than_may_be(polls: Unchanged, queue: Queue) -> None:
    await polls.poll(STREAM, PollForm(max_events=10 * MAX_EVENTS, return_immediately=True))
    assert max(queue.asked) == MAX_EVENTS


def stream(number: int) -> StreamRecord:
    return msgspec.structs.replace(STREAM, stream_id=f"poll-{number}", client_id=ClientId(f"edp-{number}"))


async def test_many_that_wait_cost_one_query_a_second_and_who_gets_nothing_is_left_alone(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    ended: dict[str, float] = {}

    async def wait(number: int) -> None:
        await trio.sleep(number / 100)
        begun = trio.current_time()
        polled = await polls.poll(stream(number), PollForm())
        assert bool(polled.sets) == (number == 1)
        ended[stream(number).client_id] = trio.current_time() - begun

    async with trio.open_nursery() as nursery:
        for number in range(1, 201):
            nursery.start_soon(wait, number)
        await trio.sleep(3.5)
        looks, asked = queue.looks, len(queue.asked)
        await trio.sleep(10.0)
        assert queue.looks == looks + 10
        assert len(queue.asked) == asked
        queue.sets["c1.x"] = "h.p.s"
        queue.signed.ring()
        await trio.sleep(0.0625)
        assert ended == {"edp-1": 13.5 - 0.01}
        assert len(queue.asked) == asked + 2  # it, and who looks for the others from now on
        nursery.cancel_scope.deadline = 1_000.0
    assert {round(time, 6) for name, time in ended.items() if name != "edp-1"} == {CEILING}
    assert queue.looks <= 40  # who leads went again and again, one after the other


async def test_however_often_it_rings_there_are_twenty_queries_a_second(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polls.poll, STREAM, PollForm())
        for _ in range(1_000):
            await trio.sleep(0.01)
            queue.signed.ring()
        assert 180 <= queue.looks <= 201
        nursery.cancel_scope.cancel()


async def test_a_database_that_goes_away_is_told_to_each_that_waits(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    refused: list[float] = []

    async def wait(number: int) -> None:
        with pytest.raises(LedgerUnavailable):
            await polls.poll(stream(number), PollForm())
        refused.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(wait, number)
        await trio.sleep(4.5)
        queue.fault = LedgerUnavailable("away")
    assert len(refused) == 5
    assert max(refused) <= 5.5


async def test_when_who_looks_for_the_others_is_cut_off_another_does(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def cut_off() -> None:
            with first:
                await polls.poll(stream(2), PollForm())

        nursery.start_soon(cut_off)
        await trio.sleep(0.5)
        nursery.start_soon(polls.poll, stream(3), PollForm())
        await trio.sleep(1.0)
        first.cancel()
        looks = queue.looks
        await trio.sleep(10.0)
        assert queue.looks >= looks + 9
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [StreamStatus.PAUSED, StreamStatus.DISABLED])
async def test_a_stream_that_is_not_enabled_says_so_at_once_and_that_it_is_again_at_the_end(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock, status: StreamStatus
) -> None:
    queue.sets["c1.x"] = "h.p.s"
    queue.own["paused"] = "h.p.p"
    stream, begun = msgspec.structs.replace(STREAM, status=status), trio.current_time()
    assert await polls.poll(stream, PollForm()) == Polled({"paused": "h.p.p"}, more=False)
    assert trio.current_time() == begun
    queue.own.clear()

    async def enable() -> None:
        await trio.sleep(10.0)
        queue.own["enabled"] = "h.p.e"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enable)
        assert await polls.poll(stream, PollForm()) == Polled({"enabled": "h.p.e"}, more=False)
    assert trio.current_time() - begun == CEILING


async def test_a_paused_stream_waits_and_asks_for_nothing(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    queue.sets["c1.x"] = "h.p.s"
    paused = msgspec.structs.replace(STREAM, status=StreamStatus.PAUSED)
    begun = trio.current_time()
    assert await polls.poll(paused, PollForm()) == NOTHING
    assert trio.current_time() - begun == CEILING
    assert set(queue.asked) == {0}
    assert queue.looks == 0


@pytest.mark.parametrize("status", [StreamStatus.PAUSED, StreamStatus.DISABLED])
async def test_who_waits_on_a_stream_that_is_put_on_hold_gets_only_what_is_about_the_stream(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock, status: StreamStatus
) -> None:
    stopped = standing(msgspec.structs.replace(STREAM, status=status))
    given: list[tuple[dict[str, str], float]] = [({}, CEILING), ({"paused": "h.p.p"}, 7.5)]

    for own, seconds in given:
        queue.sets.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(queue.bring_later, own=own.items()))
            begun = trio.current_time()
            assert await polls.poll(STREAM, PollForm(), stopped) == Polled(own, more=False)
        assert trio.current_time() - begun == seconds
        assert list(queue.sets) == ["c1.x"]


@pytest.mark.parametrize("refusal", [SuspendedCaller("suspended"), UnknownStream("deleted")])
async def test_who_may_not_poll_any_more_when_something_comes_is_told_so_and_gets_nothing(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock, refusal: Fault
) -> None:
    async def again() -> StreamRecord:
        await trio.lowlevel.checkpoint()
        raise refusal

    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.bring_later)
        begun = trio.current_time()
        with pytest.raises(type(refusal)):
            await polls.poll(STREAM, PollForm(), again)
        assert trio.current_time() - begun == 7.5
    assert await polls.poll(STREAM, PollForm()) == Polled({"c1.x": "h.p.s"}, more=False)  # nobody waits any more


async def test_who_may_not_poll_any_more_when_a_paused_stream_is_enabled_is_told_so(
    polls: Unchanged, queue: Queue, autojump_clock: MockClock
) -> None:
    async def again() -> StreamRecord:
        await trio.lowlevel.checkpoint()
        raise SuspendedCaller("suspended")

    async def enable() -> None:
        await trio.sleep(7.5)
        queue.own["enabled"] = "h.p.e"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enable)
        with pytest.raises(SuspendedCaller):
            await polls.poll(msgspec.structs.replace(STREAM, status=StreamStatus.PAUSED), PollForm(), again)
