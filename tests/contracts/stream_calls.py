"""One poll at a time and one verification a minute: over all processes, on any database."""

import trio

from admin.directory.stream_service import Streams
from admin.directory.streams import TooSoon
from admin.ledger.events import Initiator
from admin.ledger.outbox_service import Outbox
from admin.ledger.push_lease import database_time
from admin.ledger.signal import Signal
from engine.clock import Seconds
from engine.consent.records import Role
from engine.events.facts import VerificationFact
from tests.support.outboxes import House

HELD, MINUTE = Seconds(30.0), Seconds(60.0)


def another(house: House) -> Outbox:
    """The outbox as another process has it, by the same database."""
    clock = house.clock.wall
    return Outbox(house.ledger.database, Signal(), clock, lease_time=lambda c: database_time(c) + house.lease_offset)


class StreamCallsContract:
    """Subclasses give `house`, and `elsewhere`: another instance with connections of its own to the same database."""

    async def test_a_second_poll_is_refused_until_the_first_is_over_wherever_it_waits(self, house: House) -> None:
        here, there = another(house), another(house)
        assert await here.begin_poll("stream-1", "a", HELD)
        assert not await there.begin_poll("stream-1", "b", HELD)
        assert not await here.begin_poll("stream-1", "c", HELD)
        assert await there.begin_poll("stream-2", "d", HELD)
        await there.end_poll("stream-1", "b")  # who does not have it gives nothing back
        assert not await there.begin_poll("stream-1", "b", HELD)
        await here.end_poll("stream-1", "a")
        assert await there.begin_poll("stream-1", "b", HELD)

    async def test_a_poll_of_a_process_that_was_killed_is_over_after_its_time(self, house: House) -> None:
        here, there = another(house), another(house)
        assert await here.begin_poll("stream-1", "a", HELD)
        house.lease_offset += 29
        assert not await there.begin_poll("stream-1", "b", HELD)
        house.lease_offset += 2
        assert await there.begin_poll("stream-1", "b", HELD)
        await here.end_poll("stream-1", "a")  # it was not dead after all, and takes nothing from the other
        assert not await here.begin_poll("stream-1", "c", HELD)

    async def test_a_clock_that_was_set_back_shuts_nobody_out(self, house: House) -> None:
        """By hours, say: the poll of a process that was killed, and a verification, must not last as long."""
        here, there = another(house), another(house)
        assert await here.begin_poll("stream-1", "a", HELD)
        assert (await here.begin_verification("stream-1", MINUTE)).wait == 0
        house.lease_offset -= 7_200
        assert await there.begin_poll("stream-1", "b", HELD)
        assert not await here.begin_poll("stream-1", "c", HELD)
        assert (await there.begin_verification("stream-1", MINUTE)).wait == 0
        assert 58 < (await here.begin_verification("stream-1", MINUTE)).wait <= 60

    async def test_of_many_that_poll_at_once_one_may(self, house: House) -> None:
        taken: list[bool] = []

        async def ask(outbox: Outbox, holder: str) -> None:
            taken.append(await outbox.begin_poll("stream-1", holder, HELD))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, another(house), f"holder-{number}")
        assert sorted(taken) == [False] * 9 + [True]

    async def test_a_verification_is_asked_for_once_a_minute_wherever(self, house: House) -> None:
        here, there = another(house), another(house)
        assert (await here.begin_verification("stream-1", MINUTE)).wait == 0
        assert 58 < (await there.begin_verification("stream-1", MINUTE)).wait <= 60
        assert (await there.begin_verification("stream-2", MINUTE)).wait == 0
        house.lease_offset += 61
        again = await there.begin_verification("stream-1", MINUTE)
        assert again.wait == 0
        assert (await here.begin_verification("stream-1", MINUTE)).wait > 0
        await there.forgo_verification("stream-1", again.at)
        assert (await here.begin_verification("stream-1", MINUTE)).wait == 0

    async def test_whoever_forgoes_late_takes_nothing_from_who_asked_since(self, house: House) -> None:
        here, there = another(house), another(house)
        slow = await here.begin_verification("stream-1", MINUTE)
        house.lease_offset += 61
        assert (await there.begin_verification("stream-1", MINUTE)).wait == 0
        await here.forgo_verification("stream-1", slow.at)
        assert (await here.begin_verification("stream-1", MINUTE)).wait > 0

    async def test_of_many_calls_at_once_over_two_instances_one_has_a_verification_made(
        self, house: House, elsewhere: House
    ) -> None:
        """By the application's own service in both; the others are told to wait, as a 429 with `Retry-After`."""
        await house.register("edp-1", Role.EDP)
        stream = await house.poll_stream("edp-1", Role.EDP)
        await house.settle()
        waits: list[float] = []

        async def verify(instance: House) -> None:
            act = instance.act(Initiator.EDP, "edp-1")
            try:
                await streams_of(instance).verify(stream.client_id, stream.stream_id, "word", act)
            except TooSoon as fault:
                waits.append(fault.retry_after)

        for told in (1, 2):
            waits.clear()
            async with trio.open_nursery() as nursery:
                for instance in (house, elsewhere) * 4:
                    nursery.start_soon(verify, instance)
            assert len(waits) == 7
            assert all(0 < wait <= 60 for wait in waits)
            made = await house.outbox.unsigned(0, 100, Seconds(0.0))
            assert [one.fact.state for one in made if isinstance(one.fact, VerificationFact)] == ["word"] * told
            house.lease_offset += 61
            elsewhere.lease_offset += 61


def streams_of(house: House) -> Streams:
    return Streams(house.ledger, house.outbox, house.clock.now, lambda: "challenge", private_allowed=True)
