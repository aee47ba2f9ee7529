"""What is checked before a ledger is trusted with writes."""

from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from admin.ledger.database import Database
from admin.ledger.events import event_of
from admin.ledger.genesis import UnsafeDatabase, WrongLedger
from admin.ledger.schema import events
from admin.ledger.sql import open_ledger
from tests.support.ledger import HandClock, change, ledger_config, tamper
from tests.support.postgres import PostgresServer


async def test_first_event_says_what_the_ledger_is_for(tmp_path: Path) -> None:
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db", "production")
    async with open_ledger(config, HandClock()) as ledger:
        [first] = await ledger.events(0, 1)
    created = event_of(first)
    assert (created.kind, created.incarnation) == ("production", first.position.incarnation)
    assert len(first.position.incarnation) == 16


async def test_each_new_ledger_has_an_incarnation_of_its_own(tmp_path: Path) -> None:
    incarnations = set()
    for name in ("a", "b"):
        async with open_ledger(ledger_config(tmp_path, f"sqlite:///{tmp_path}/{name}.db"), HandClock()) as ledger:
            incarnations.add((await ledger.head()).position.incarnation)
    assert len(incarnations) == 2


@pytest.mark.parametrize("body", [b"", b"\x91\x01", b"not an event"])
async def test_unreadable_first_event_is_refused(tmp_path: Path, body: bytes) -> None:
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    async with open_ledger(config, HandClock()):
        pass
    tamper(config.url, sa.update(events).values(body=body))
    with pytest.raises(WrongLedger):
        async with open_ledger(config, HandClock()):
            pass


async def test_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    async with open_ledger(config, HandClock()):
        pass
    tamper(config.url, sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongLedger, match="newer"):
        async with open_ledger(config, HandClock()):
            pass


@pytest.mark.postgres
async def test_production_refuses_a_server_that_does_not_wait_for_its_disk(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    postgres_server.stop()
    postgres_server.start("fsync=off")
    try:
        with pytest.raises(UnsafeDatabase):
            async with open_ledger(ledger_config(tmp_path, postgres_url, "production"), HandClock()):
                pass
        async with open_ledger(ledger_config(tmp_path, postgres_url, "sandbox"), HandClock()) as ledger:
            assert (await ledger.append([change(UUID(int=1).int)])).position.seq == 2
    finally:
        postgres_server.stop()
        postgres_server.start()


@pytest.mark.postgres
async def test_commits_wait_for_the_disk_also_where_the_server_would_not(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    postgres_server.stop()
    postgres_server.start("synchronous_commit=off")
    try:
        database = Database(postgres_url)
        found = await database.run(lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").scalar())
        database.dispose()
    finally:
        postgres_server.stop()
        postgres_server.start()
    assert found == "on"
