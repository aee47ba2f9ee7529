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
from admin.ledger.outbox_figures import counting
from admin.ledger.receiver_standing import untold_query
from admin.ledger.schema import deliveries, outbox
from engine.clock import Seconds
from engine.consent.records import Role
from engine.pusher.service import Lane
from tests.support.outboxes import House, house_in

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
    begun = {"lane": 1, "after": 0, "limit": 100}  # a pusher that has just started
    even = begun | {"after": HANGING + 1_000}  # one that has seen everything but the newest
    acknowledged = sa.select(number).where(polling.OPEN, deliveries.c.client_id == "edp-1", deliveries.c.jti == "j")
    return {
        "pending": plan_of(connection, of_all, **begun),
        "pending, newest": plan_of(connection, of_all, **even),
        "pending, one": plan_of(connection, of_one, client_id="edp-1", **begun),
        "framework": plan_of(connection, statements.FRAMEWORK_EVENTS, **begun),
        "unsigned": plan_of(connection, statements.UNSIGNED_NUMBERS[name], lane=1, after=0, limit=10),
        "parked": plan_of(connection, first_of_receiver(statements.PARKED)),
        "open": plan_of(connection, first_of_receiver(polling.OPEN)),
        "open, of many": plan_of(connection, polling.WITH_OPEN[name], clients='["edp-1", "edp-4"]'),
        "framework_open": plan_of(
            connection, polling.ABOUT_STREAM[name], client_id="edp-1", stream_id="stream", limit=9
        ),
        "untold": plan_of(connection, untold_query(connection, by_poll_alone=False), client_id="edp-1"),
        ", acknowledged": plan_of(connection, acknowledged),
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
        for whole in ("SCAN deliveries", "SCAN found", "Seq Scan on deliveries"):
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
