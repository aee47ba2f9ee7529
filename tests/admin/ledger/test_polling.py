"""Poll from the outbox: what a receiver keeps, refuses and finds again, whatever was pushed."""

import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from admin.ledger import deliveries as statements
from admin.ledger import polling
from admin.ledger.database import Database
from admin.ledger.outbox import Poll
from admin.ledger.polling import MAX_EVENTS, Polled
from admin.ledger.schema import deliveries
from engine.clock import Seconds
from engine.consent.records import ClientId, Role
from engine.pusher.service import Fate, Outcome, Signed
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.support.outboxes import House, house_in

NO_WAIT = Seconds(0.0)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """With three grants of atp-1 and edp-1, signed."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house_in(tmp_path, url) as house:
        await house.furnish()
        for _ in range(3):
            await house.grant()
        await house.settle()
        await sign(house)
        yield house


async def sign(house: House) -> None:
    epoch = (await house.door.lease("holder-1", None)).epoch
    made = await house.door.unsigned(0, 500, NO_WAIT)
    await house.door.keep(epoch, [Signed(one.number, b"set.%d.x" % one.number) for one in made])


async def polled(house: House, limit: int = 100) -> Polled:
    return await house.outbox.poll("edp-1", (), {}, limit)  # type: ignore[arg-type]  # a client id


async def test_what_is_not_acknowledged_comes_again_oldest_first(house: House) -> None:
    first = await polled(house, 2)
    assert (len(first.sets), first.more) == (2, True)
    whole = await polled(house)
    assert list(whole.sets.items())[:2] == list(first.sets.items())
    assert (len(whole.sets), whole.more) == (3, False)
    assert all(text.startswith("set.") for text in whole.sets.values())


async def test_what_is_acknowledged_is_gone_and_may_be_acknowledged_again(house: House) -> None:
    first, *rest = (await polled(house)).sets
    for _ in range(2):
        again = await house.outbox.poll("edp-1", [first], {}, 100)  # type: ignore[arg-type]  # a client id
        assert list(again.sets) == rest
    assert await house.outbox.poll("edp-1", rest, {}, 0) == Polled({}, more=False)  # type: ignore[arg-type]  # likewise
    assert (await polled(house)).sets == {}


async def test_an_error_ends_a_set_too_and_its_code_is_kept(house: House) -> None:
    first, second, third = (await polled(house)).sets
    errors = {first: "invalid_key" + "y" * 100, second: "access_denied"}
    left = await house.outbox.poll("edp-1", [second], errors, 100)  # type: ignore[arg-type]  # a client id
    assert list(left.sets) == [third]


async def test_nobody_acknowledges_for_another(house: House) -> None:
    mine = list((await polled(house)).sets)
    await house.outbox.poll("atp-1", [*mine, "c1.nobody's"], dict.fromkeys(mine, "invalid_key"), 100)  # type: ignore[arg-type]  # a client id
    assert list((await polled(house)).sets) == mine


async def test_a_push_that_was_taken_does_not_end_the_poll_copy_nor_the_other_way_round(house: House) -> None:
    epoch = (await house.door.lease("holder-1", None)).epoch
    owed = [one for one in await house.door.fresh(1, 0, 100, NO_WAIT) if one.client_id == "edp-1"]  # type: ignore[arg-type]  # a lane
    await house.door.tell(epoch, [Outcome(owed[0].number, Fate.DONE, 1, 0.5)])
    await house.outbox.poll("edp-1", [owed[1].jti], {}, 0)  # type: ignore[arg-type]  # a client id
    assert list((await polled(house)).sets) == [owed[0].jti, owed[2].jti]
    left = [one.jti for one in await house.door.fresh(1, 0, 100, NO_WAIT) if one.client_id == "edp-1"]  # type: ignore[arg-type]  # a lane
    assert left == [owed[1].jti, owed[2].jti]


async def test_what_is_not_signed_yet_is_not_given(house: House) -> None:
    await house.grant()
    await house.settle()
    assert len((await polled(house)).sets) == 3
    waiting = house.outbox.signed.next_ring()
    await sign(house)
    assert waiting.is_set()
    assert len((await polled(house, MAX_EVENTS + 1)).sets) == 4


async def test_who_has_something_to_fetch_is_told_for_many_at_once(house: House) -> None:
    asked = [ClientId(name) for name in ("edp-1", "atp-1", "edp-9", 'x"y')]
    assert sorted(await house.outbox.with_open(asked)) == ["atp-1", "edp-1"]
    await house.outbox.poll(ClientId("edp-1"), (await polled(house)).sets, {}, 0)
    await house.grant()
    await house.settle()
    assert list(await house.outbox.with_open(asked)) == ["atp-1"]  # what came is not signed yet
    await sign(house)
    assert list(await house.outbox.with_open(asked[:1])) == ["edp-1"]
    assert list(await house.outbox.with_open([])) == []


async def test_what_a_stream_was_told_of_itself_is_not_its_successors_and_everything_else_is(house: House) -> None:
    """Verifications and changes of status, signed or not; also of one that came and went between two looks."""
    own, other = await poll_stream_of(house, "edp-1"), await poll_stream_of(house, "atp-1")
    events = list((await polled(house)).sets)
    for stream in (own, other):
        await house.outbox.ask_verification(stream.stream_id, "word")
    await sign(house)
    acknowledged = next(jti for jti in (await polled(house)).sets if jti not in events)
    await house.outbox.poll(ClientId("edp-1"), [acknowledged], {}, 0)
    held = await house.change(own, actor="operator-1", status=StreamStatus.PAUSED, reason="flooding")
    await house.settle()
    await sign(house)
    assert len((await polled(house)).sets) == 4
    await house.outbox.ask_verification(own.stream_id, "not signed yet")
    await house.change(held, deleted=True, status=StreamStatus.DISABLED)
    brief = await house.poll_stream("edp-1", Role.EDP)
    gone = await house.change(brief, actor="operator-1", status=StreamStatus.PAUSED, reason="flooding")
    await house.change(gone, deleted=True, status=StreamStatus.DISABLED)
    successor = await house.poll_stream("edp-1", Role.EDP)
    await house.settle()
    await sign(house)
    assert list((await polled(house)).sets) == events
    assert (await house.outbox.about_stream(ClientId("edp-1"), own.stream_id, 10)).sets == {}
    await house.outbox.poll(ClientId("edp-1"), events, {}, 0)
    assert list(await house.outbox.with_open([ClientId("edp-1")])) == []
    assert await polls_of(house, own.stream_id) == [Poll.ACKED, Poll.NONE, Poll.NONE]
    assert len((await house.outbox.about_stream(ClientId("atp-1"), other.stream_id, 10)).sets) == 1
    await house.outbox.ask_verification(successor.stream_id, "word")
    await sign(house)
    assert len((await polled(house)).sets) == 1


async def poll_stream_of(house: House, client_id: str) -> StreamRecord:
    roster = await house.door.roster(0, NO_WAIT)
    assert roster is not None
    [streams] = [one.streams for one in roster.receivers if one.client_id == client_id]
    return next(one for one in streams if one.delivery is DeliveryMethod.POLL)


async def polls_of(house: House, stream_id: str) -> list[int]:
    """What has become by poll of the events about a stream, in order."""
    query = sa.select(deliveries.c.poll).where(deliveries.c.subject == stream_id).order_by(deliveries.c.number)
    return await house.ledger.database.read(lambda connection: list(connection.execute(query).scalars()))


@pytest.mark.postgres
async def test_who_acknowledges_while_outcomes_are_told_does_not_deadlock(tmp_path: Path, postgres_url: str) -> None:
    """Ids in the opposite order of numbers; the receiver comes while half of the outcomes are told."""
    async with house_in(tmp_path, postgres_url) as house:
        await house.furnish()
        for _ in range(3):
            await house.grant()
        await house.settle()
        database = house.ledger.database
        numbers = await database.run(turn_ids)
        begun, acknowledged = threading.Event(), threading.Event()

        def tell(connection: sa.Connection) -> None:
            statements.tell(connection, [Outcome(numbers[0], Fate.DONE, 1, 0.5)])
            begun.set()
            wait_for_lock(database)
            statements.tell(connection, [Outcome(number, Fate.DONE, 1, 0.5) for number in numbers[1:]])

        def settle(connection: sa.Connection) -> None:
            ids = [f"j{9_000 - number}" for number in numbers]
            assert begun.wait(30)
            polling.settle(connection, ClientId("edp-1"), ids[:2], {ids[2]: "invalid_key"}, 1.0)
            acknowledged.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.run, tell)
            nursery.start_soon(database.run, settle)
        assert acknowledged.is_set()
        query = sa.select(deliveries.c.push, deliveries.c.poll).where(deliveries.c.number.in_(numbers))
        rows = await database.read(lambda connection: connection.execute(query.order_by(deliveries.c.number)).all())
        assert [tuple(row) for row in rows] == [(1, 1), (1, 1), (1, 4)]


def turn_ids(connection: sa.Connection) -> list[int]:
    """Give the three deliveries of edp-1 ids that fall while their numbers rise; returns their numbers."""
    own = deliveries.c.client_id == "edp-1", deliveries.c.seq > 0
    numbers = list(connection.execute(sa.select(deliveries.c.number).where(*own)).scalars())
    for number in numbers:
        connection.execute(sa.update(deliveries).where(deliveries.c.number == number).values(jti=f"j{9_000 - number}"))
    return sorted(numbers)


def wait_for_lock(database: Database) -> None:
    """Until another transaction waits for a row."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until = time.monotonic() + 30
    while database.inspect(lambda connection: connection.execute(query).scalar_one()) == 0:
        assert time.monotonic() < until
        time.sleep(0.01)
