"""Two who change the same deliveries at once on PostgreSQL: no deadlock, and nothing that one wrote is written over.

The rows lie on disk in the opposite order of their numbers, so that whoever locks them as it finds them meets whoever
goes by number. The first of the two has written a part when the other comes.
"""

import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from admin.ledger import polling
from admin.ledger.database import Database
from admin.ledger.deliveries import tell, unpark
from admin.ledger.outbox import Poll, Push
from admin.ledger.outbox_pruning import close_polls, drop_orphans, erase_payloads, forget_results, park_untried
from admin.ledger.outbox_service import NoSuchStream, ask_verification
from admin.ledger.schema import deliveries, streams
from admin.ledger.sequencer import drop_told_of, take_numbers
from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.schedule import length_of
from engine.pusher.service import Fate, Lane, Outcome
from tests.support.outboxes import House, house_in

pytestmark = pytest.mark.postgres
EDP = ClientId("edp-1")
LATE = 40 * 86_400  # seconds after which all that is tried here is due
Work = Callable[[sa.Connection], object]


@pytest.fixture
async def house(tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
    """With three grants of atp-1 and edp-1."""
    async with house_in(tmp_path, postgres_url) as house:
        await house.furnish()
        for _ in range(3):
            await house.grant()
        await house.settle()
        yield house


class Meeting:
    """One writes a part; then the other comes, until it is done or has to wait; then the first goes on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._begun = threading.Event()
        self._over = threading.Event()
        self.brought: object = None  # by the other

    async def hold(self, first: Work, then: Work, other: Work) -> None:
        def one(connection: sa.Connection) -> None:
            first(connection)
            self._begun.set()
            self._wait()
            then(connection)

        def two(connection: sa.Connection) -> None:
            assert self._begun.wait(30)
            try:
                self.brought = other(connection)
            finally:
                self._over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._database.run, one)
            nursery.start_soon(self._database.run, two)

    def _wait(self) -> None:
        query = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        until = time.monotonic() + 30
        while not self._over.is_set() and self._database.inspect(lambda one: one.execute(query).scalar_one()) == 0:
            assert time.monotonic() < until
            time.sleep(0.01)


def lay_out(connection: sa.Connection, push: Push) -> list[int]:
    """All rows due and untouched, the highest number first on disk; returns those of edp-1, the lowest first."""
    numbers = list(connection.execute(sa.select(deliveries.c.number).order_by(deliveries.c.number)).scalars())
    whole = {"push": int(push), "poll": int(Poll.OPEN), "attempts": 0, "next_at": 0.0, "error": "", "polled_at": None}
    for number in reversed(numbers):
        connection.execute(sa.update(deliveries).where(deliveries.c.number == number).values(**whole))
    own = sa.select(deliveries.c.number).where(deliveries.c.client_id == EDP).order_by(deliveries.c.number)
    return list(connection.execute(own).scalars())


def done(*numbers: int) -> Work:
    return lambda connection: tell(connection, [Outcome(number, Fate.DONE, 1, 0.5) for number in numbers])


def works(now: float) -> dict[str, tuple[Push, Work]]:
    """Whatever changes many deliveries at once, and what they must be for it."""
    return {
        "unpark": (Push.PARKED, lambda connection: unpark(connection, EDP, 0, 100)),  # type: ignore[arg-type]  # a time
        "close polls": (Push.PENDING, lambda connection: close_polls(connection, now)),
        "park untried": (Push.PENDING, lambda connection: park_untried(connection, now)),
        "drop orphans": (Push.PENDING, drop_orphans),
        "erase payloads": (Push.PENDING, lambda connection: erase_payloads(connection, now)),
        "forget results": (Push.PENDING, lambda connection: forget_results(connection, now)),
    }


@pytest.mark.parametrize("name", works(0.0))
async def test_whoever_tells_outcomes_meanwhile_is_not_caught_in_a_deadlock(house: House, name: str) -> None:
    push, work = works(house.clock.wall() + LATE)[name]
    database = house.ledger.database
    if name == "drop orphans":
        await database.run(lambda connection: connection.execute(sa.delete(streams)))
    numbers = await database.run(lambda connection: lay_out(connection, push))
    await database.run(lambda connection: connection.exec_driver_sql("ANALYZE"))
    await Meeting(database).hold(done(numbers[0]), done(*numbers[1:]), work)
    query = sa.select(deliveries.c.push).where(deliveries.c.number == numbers[0])
    assert await database.read(lambda connection: connection.execute(query).scalar()) == Push.DONE


async def test_what_a_receiver_acknowledges_meanwhile_stays_acknowledged(house: House) -> None:
    database, before = house.ledger.database, house.clock.wall() + LATE
    await database.run(lambda connection: lay_out(connection, Push.NONE))
    query = sa.select(deliveries.c.jti).where(deliveries.c.client_id == EDP, deliveries.c.seq > 0)
    own = await database.read(lambda connection: list(connection.execute(query).scalars()))

    def acknowledge(connection: sa.Connection) -> None:
        polling.settle(connection, EDP, own, {}, 1.0)

    meeting = Meeting(database)
    await meeting.hold(acknowledge, lambda _: None, lambda connection: close_polls(connection, before))
    found = sa.select(deliveries.c.poll).where(deliveries.c.jti.in_(own))
    assert await database.read(lambda connection: connection.execute(found).scalars().all()) == [Poll.ACKED] * 3


@pytest.mark.parametrize("name", ["park untried", "unpark"])
async def test_what_was_pushed_meanwhile_stays_pushed(house: House, name: str) -> None:
    assert length_of(Lane.ORDINARY) < LATE
    push, work = works(house.clock.wall() + LATE)[name]
    database = house.ledger.database
    numbers = await database.run(lambda connection: lay_out(connection, push))
    await Meeting(database).hold(done(*numbers), lambda _: None, work)
    query = sa.select(deliveries.c.push).where(deliveries.c.client_id == EDP)
    assert await database.read(lambda connection: connection.execute(query).scalars().all()) == [Push.DONE] * 3


async def test_a_verification_that_is_asked_for_while_its_stream_is_deleted_is_not_made(house: House) -> None:
    """The sequencer has begun its batch when somebody asks. Else the event would be left to the stream's successor."""
    roster = await house.door.roster(0, Seconds(0.0))
    assert roster is not None
    [stream_id] = [one.streams[0].stream_id for one in roster.receivers if one.client_id == "edp-2"]

    def delete(connection: sa.Connection) -> None:
        connection.execute(sa.delete(streams).where(streams.c.stream_id == stream_id))
        drop_told_of(connection, {stream_id: ClientId("edp-2")})

    def ask(connection: sa.Connection) -> bool:
        try:
            ask_verification(connection, stream_id, "word", 1.0)
        except NoSuchStream:
            return False
        return True

    meeting = Meeting(house.ledger.database)
    await meeting.hold(lambda connection: take_numbers(connection, 0), delete, ask)
    assert meeting.brought is False
