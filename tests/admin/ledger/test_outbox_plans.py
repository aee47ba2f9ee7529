"""How the outbox is looked through: a hundred thousand deliveries of one receiver that hangs cost the others nothing.

Plans are looked at, not times: what a plan touches is the same on every machine.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admin.ledger import deliveries as statements
from admin.ledger import polling
from admin.ledger.by_receiver import PARKED, PENDING, UNTOLD_AT_ALL, counts_query, first_in_lane_query, first_ones_query
from admin.ledger.database import Database
from admin.ledger.outbox_figures import counting
from admin.ledger.schema import deliveries, outbox
from engine.clock import Seconds
from engine.consent.records import ClientId, Role
from engine.pusher.service import Lane
from tests.support.outbox_calls import ALIASES, Call, Subject, calls, subject_of
from tests.support.outbox_rows import AT, Filling
from tests.support.outbox_rows import fill as fill_by_hand
from tests.support.outboxes import House, house_in
from tests.support.statements import Said, accesses, listening

HANGING = 100_000
_COLUMNS = (
    "number, client_id, role, lane, seq, prev, jti, txn, subject, committed_at, fact, push, attempts, next_at, error,"
    " poll, poll_error, signed_at"
)
_VALUES = "n + 1000, 'edp-4', 2, 1, n, 0, 'j' || n, 't', 's', 1800000000.0, {fact}, 0, 3, 0.0, 'timeout', 3, '', 1.5"
_ROWS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})"
    " INSERT INTO deliveries ({columns}) SELECT {values} FROM s",
    "postgresql": "INSERT INTO deliveries ({columns}) SELECT {values} FROM generate_series(1, {count}) AS s(n)",
}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """edp-4 hangs with a hundred thousand deliveries; then came one for atp-1 and edp-1."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house_in(tmp_path, url) as house:
        await house.furnish()
        await house.register("edp-4", Role.EDP)
        await house.push_stream("edp-4", Role.EDP)
        await house.settle()
        await house.ledger.database.run(fill)
        await house.grant()
        await house.settle()
        await house.ledger.database.run(lambda connection: connection.exec_driver_sql("ANALYZE"))
        yield house


def fill(connection: sa.Connection) -> None:
    """One that hangs. Its facts are those of a real delivery's kind, which no plan looks at."""
    name = connection.dialect.name
    fact = "x'95A676657269667901C0C0'" if name == "sqlite" else "'\\x95A676657269667901C0C0'::bytea"
    text = _ROWS[name].format(columns=_COLUMNS, values=_VALUES.format(fact=fact), count=HANGING)
    connection.exec_driver_sql(text)
    connection.execute(sa.update(outbox).values(numbered=HANGING + 1_000))


def plan_of(connection: sa.Connection, query: Any, **values: Any) -> str:
    if isinstance(query, sa.TextClause):
        query = query.bindparams(**values)
    elif values:
        query = query.params(**values)
    text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
    words = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    rows = connection.exec_driver_sql(words + text.replace("%", "%%")).all()
    return "\n".join(str(row[-1]) for row in rows)


def first_of_receiver(condition: Any) -> Any:
    query = sa.select(deliveries.c.number).where(condition, statements.of_receiver("edp-1"))
    return query.order_by(*statements.BY_RECEIVER).limit(9)


def plans(connection: sa.Connection) -> dict[str, str]:
    name, number = connection.dialect.name, deliveries.c.number
    of_all, of_one = statements.PENDING_OF_ALL[name], statements.PENDING_OF_ONE[name]
    two = '["edp-1", "edp-4"]'
    some = {"clients": two, "each": 1_000, "limit": 1_000}
    begun = {"lane": 1, "after": 0, "limit": 100}  # a pusher that has just started
    even = begun | {"after": HANGING + 1_000}  # one that has seen everything but the newest
    acknowledged = sa.select(number).where(deliveries.c.client_id == "edp-1", deliveries.c.jti == "j")
    return {
        "pending": plan_of(connection, of_all, **begun),
        "pending, newest": plan_of(connection, of_all, **even),
        "pending, one": plan_of(connection, of_one, client_id="edp-1", **begun),
        "framework": plan_of(connection, statements.FRAMEWORK_EVENTS, **begun),
        "unsigned": plan_of(connection, statements.UNSIGNED_NUMBERS[name], lane=1, after=0, limit=10),
        "parked": plan_of(connection, first_of_receiver(statements.PARKED)),
        "open": plan_of(connection, first_of_receiver(polling.OPEN)),
        "framework_open": plan_of(
            connection, polling.ABOUT_STREAM[name], client_id="edp-1", stream_id="stream", limit=9
        ),
        "open, of many": plan_of(connection, polling.WITH_OPEN[name], clients=two),
        "untold": plan_of(connection, first_ones_query(name, UNTOLD_AT_ALL, "1 = 1"), **some),
        "parked, of many": plan_of(connection, first_ones_query(name, PARKED, "1 = 1"), **some),
        "pending, of many": plan_of(connection, first_in_lane_query(name, "1 = 1"), lane=1, **some),
        "pending, of many at most": plan_of(connection, counts_query(name, PENDING), clients=two, most=10_000),
        "jti, acknowledged": plan_of(connection, acknowledged),
    }


def count_plans(connection: sa.Connection) -> dict[str, str]:
    conditions = {"pending": "push = 0", "parked": "push = 2", "unsigned": "signed_at IS NULL", "open": "poll = 0"}
    return {
        f"{name}, counted": plan_of(connection, sa.text(counting(connection, name, condition)))
        for name, condition in conditions.items()
    }


async def test_a_receiver_that_hangs_costs_the_others_nothing(house: House) -> None:
    found = await house.ledger.database.read(plans)
    if house.ledger.database.is_sqlite:  # PostgreSQL knows how many there are: here nearly all are pending
        found |= await house.ledger.database.read(count_plans)
    for name, plan in found.items():
        assert f"ix_deliveries_{name.partition(',')[0]}" in plan, (name, plan)
        for whole in ("SCAN deliveries", "SCAN found", "SCAN one", "Seq Scan on deliveries"):
            assert "counted" in name or whole not in plan, (name, plan)
    fresh = await house.door.fresh(Lane.ORDINARY, HANGING + 1_000, 10, Seconds(0.0))
    assert [one.client_id for one in fresh] == ["atp-1", "edp-1"]
    assert (await house.outbox.figures()).pending[Lane.ORDINARY] == HANGING + 2


async def test_the_database_gives_a_page_of_all_receivers_and_no_more(house: House) -> None:
    def numbers(connection: sa.Connection) -> list[int]:
        query = statements.PENDING_OF_ALL[connection.dialect.name]
        return list(connection.execute(query, {"lane": 1, "after": 0, "limit": 10}).scalars())

    def lowest(connection: sa.Connection) -> list[int]:
        query = sa.select(deliveries.c.number).where(deliveries.c.push == 0, deliveries.c.lane == 1)
        return list(connection.execute(query.order_by(deliveries.c.number).limit(10)).scalars())

    await house.grant()
    await house.settle()
    assert await house.ledger.database.read(numbers) == await house.ledger.database.read(lowest)


async def test_every_statement_finds_its_deliveries_by_an_index(tmp_path: Path) -> None:
    """Whatever is said to the embedded database; only who counts what is left goes through an index as a whole."""
    async with house_in(tmp_path) as house:
        await house.settle()
        database = house.ledger.database
        await database.run(lambda connection: fill_by_hand(connection, Filling(24, 600, days=400), seed=1))
        of = await database.read(subject)
        made = calls(of)
        assert len(of.numbers) > 5
        assert len(of.jtis) > 5
        wrong, heard_of = [], 0
        for call in made:
            said = statements_of(database, call)
            assert said, call.name
            heard_of += len(said)
            for one in said:
                ways = database.inspect(lambda connection, one=one: accesses(connection, one, "deliveries", ALIASES))
                wrong += [(call.name, way, one.words) for way in ways if way.is_whole]
                if call.name == "acknowledge" and one.words.startswith("SELECT"):
                    assert [way.by for way in ways] == ["INDEX ix_deliveries_jti"]
                wrong += [(call.name, way, one.words) for way in ways if way.is_whole_index and call.name != "figures"]
        assert wrong == []
        assert heard_of > 2 * len(made)


def subject(connection: sa.Connection) -> Subject:
    """The receiver that is owed most."""
    count = sa.func.count().desc()
    busy = sa.select(deliveries.c.client_id).where(deliveries.c.push == 0).group_by(deliveries.c.client_id)
    client_id = ClientId(connection.execute(busy.order_by(count).limit(1)).scalar_one())
    return subject_of(connection, client_id, (client_id,), AT)


def statements_of(database: Database, call: Call) -> list[Said]:
    """What a call says of deliveries; nothing of it stays."""
    with listening(database) as heard, database.engine.connect() as connection, connection.begin() as transaction:
        call.work(connection)
        transaction.rollback()
    return [one for one in heard if "deliveries" in one.words]
