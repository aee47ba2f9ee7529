"""One poll at a time and one verification a minute: over all processes, on any database."""

import trio

from admin.ledger.outbox_service import Outbox
from admin.ledger.push_lease import database_time
from admin.ledger.signal import Signal
from engine.clock import Seconds
from tests.support.outboxes import House

HELD, MINUTE = Seconds(30.0), Seconds(60.0)


def another(house: House) -> Outbox:
    """The outbox as another process has it, by the same database."""
    clock = house.clock.wall
    return Outbox(house.ledger.database, Signal(), clock, lease_time=lambda c: database_time(c) + house.lease_offset)


class StreamCallsContract:
    """Subclasses give `house`."""

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
        assert await here.begin_verification("stream-1", MINUTE) == 0
        house.lease_offset -= 7_200
        assert await there.begin_poll("stream-1", "b", HELD)
        assert not await here.begin_poll("stream-1", "c", HELD)
        assert await there.begin_verification("stream-1", MINUTE) == 0
        assert 58 < await here.begin_verification("stream-1", MINUTE) <= 60

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
        assert await here.begin_verification("stream-1", MINUTE) == 0
        assert 58 < await there.begin_verification("stream-1", MINUTE) <= 60
        assert await there.begin_verification("stream-2", MINUTE) == 0
        house.lease_offset += 61
        assert await there.begin_verification("stream-1", MINUTE) == 0
        assert await here.begin_verification("stream-1", MINUTE) > 0
        await there.forgo_verification("stream-1")
        assert await here.begin_verification("stream-1", MINUTE) == 0
