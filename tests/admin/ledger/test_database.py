"""The database's own faults become ours, by kind, and other stores may share it."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio

from admin.ledger.database import Database, DatabaseFault, LedgerContended
from admin.ledger.schema import claims, metadata
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault
from tests.support.ledger import ledger_config
from tests.support.postgres import PostgresServer

CLAIM = {"consent_id": "c", "edp": "e", "share_id": "s", "claimed_at": 1.5}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    on_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if on_postgres else f"sqlite:///{tmp_path}/ledger.db"
    database = Database(url)
    await database.run(metadata.create_all)
    yield database
    database.dispose()


async def test_work_is_committed(database: Database) -> None:
    await database.run(lambda connection: connection.execute(sa.insert(claims).values(**CLAIM)))
    row = await database.read(lambda connection: connection.execute(sa.select(claims)).one())
    assert row._asdict() == CLAIM


async def test_work_that_raises_is_rolled_back(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(claims).values(**CLAIM))
        raise KeyError

    with pytest.raises(KeyError):
        await database.run(work)
    assert await database.read(lambda connection: connection.execute(sa.select(claims)).first()) is None


@pytest.mark.parametrize("statement", ["SELECT nothing_of_the_kind", "THIS IS NOT SQL"])
async def test_wrong_statement_is_a_defect(database: Database, statement: str) -> None:
    with pytest.raises(DatabaseFault):
        await database.run(lambda connection: connection.exec_driver_sql(statement))


async def test_broken_constraint_is_a_defect(database: Database) -> None:
    await database.run(lambda connection: connection.execute(sa.insert(claims).values(**CLAIM)))
    with pytest.raises(DatabaseFault):
        await database.run(lambda connection: connection.execute(sa.insert(claims).values(**CLAIM)))


async def test_reading_sees_one_snapshot(database: Database) -> None:
    count = sa.select(sa.func.count()).select_from(claims)

    def twice(connection: sa.Connection) -> tuple[int | None, int | None]:
        before = connection.execute(count).scalar()
        database.transact(lambda other: other.execute(sa.insert(claims).values(**CLAIM)))
        return before, connection.execute(count).scalar()

    assert await database.read(twice) == (0, 0)
    assert await database.read(lambda connection: connection.execute(count).scalar()) == 1


async def test_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(LedgerUnavailable):
        await database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))


async def test_server_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    with pytest.raises(LedgerUnavailable):
        await database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))


@pytest.mark.postgres
async def test_a_standby_is_an_outage(postgres_server: PostgresServer) -> None:
    """Its head lags behind: an answer with it would call a node current that lacks what was committed."""
    url = postgres_server.new_database()
    with postgres_server.as_standby():
        database = Database(url)
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            await database.read(lambda connection: connection.execute(sa.text("SELECT 1")).scalar_one())
        database.dispose()


async def test_sqlite_keeps_what_it_acknowledges(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    names = ("journal_mode", "synchronous", "recursive_triggers", "secure_delete")
    found = await database.read(lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names])
    assert found == ["wal", 2, 1, 1]
    database.dispose()


def test_password_comes_from_its_file(tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "password").write_text("hush\n")
    config = ledger_config(tmp_path, "postgresql+psycopg://ledger@localhost/ledger")
    database = Database.of(msgspec.structs.replace(config, password_file=tmp_path / "password"))
    assert database.url.password == "hush"
    assert "hush" not in str(database.url)


def crossing(first: str, second: str, both: threading.Barrier) -> Callable[[sa.Connection], None]:
    """Locks two rows, one after the other; the first time it waits in between until somebody else is there too."""
    met = threading.Event()

    def work(connection: sa.Connection) -> None:
        lock(connection, first)
        if not met.is_set():
            met.set()
            both.wait(30)
        lock(connection, second)

    return work


def lock(connection: sa.Connection, consent_id: str) -> None:
    connection.execute(sa.update(claims).where(claims.c.consent_id == consent_id).values(share_id="locked"))


async def of_two_that_cross(
    database: Database, say: Callable[[Callable[[sa.Connection], None]], Awaitable[None]]
) -> list[Fault]:
    """Two transactions that lock the same rows in opposite orders; what went wrong."""
    for name in ("a", "b"):
        row = CLAIM | {"consent_id": name}
        await database.run(lambda connection, row=row: connection.execute(sa.insert(claims).values(**row)))
    both, faults = threading.Barrier(2), list[Fault]()

    async def cross(first: str, second: str) -> None:
        try:
            await say(crossing(first, second, both))
        except Fault as fault:
            faults.append(fault)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cross, "a", "b")
        nursery.start_soon(cross, "b", "a")
    return faults


@pytest.mark.postgres
async def test_of_two_that_wait_for_each_other_one_is_told_that_it_may_ask_again(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.run(metadata.create_all)
    assert [type(fault) for fault in await of_two_that_cross(database, database.run)] == [LedgerContended]
    database.dispose()


@pytest.mark.postgres
async def test_whoever_may_be_repeated_is_when_others_were_in_the_way(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.run(metadata.create_all)
    assert await of_two_that_cross(database, database.repeat) == []
    database.dispose()


async def test_whoever_is_always_in_the_way_is_told_after_three_times(tmp_path: Path) -> None:
    database, times = Database(f"sqlite:///{tmp_path}/ledger.db"), 0

    def work(_connection: sa.Connection) -> None:
        nonlocal times
        times += 1
        raise LedgerContended("others were in the way")

    with pytest.raises(LedgerContended):
        await database.repeat(work)
    assert times == 3
    database.dispose()
