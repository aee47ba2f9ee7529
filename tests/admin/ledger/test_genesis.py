"""What is checked before a ledger is trusted with writes."""

from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from admin.cli import run
from admin.ledger.backup.record import Record
from admin.ledger.bulk import NoLedger
from admin.ledger.database import Database
from admin.ledger.events import event_of
from admin.ledger.genesis import LedgerExists, UnsafeDatabase, WrongLedger
from admin.ledger.schema import events
from admin.ledger.sql import begin_ledger, open_ledger
from tests.support.backups import KEY, place_in, publish
from tests.support.ledger import HandClock, change, ledger_config, settings_text, tamper
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


async def test_a_database_without_a_ledger_stays_so_unless_somebody_says_to_begin(tmp_path: Path) -> None:
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db", "production")
    with pytest.raises(NoLedger, match="ccs ledger create"):
        async with open_ledger(config, HandClock(), may_begin=False):
            pass
    assert not (tmp_path / "ledger.db").exists()
    await begin_ledger(config, HandClock())
    async with open_ledger(config, HandClock(), may_begin=False) as ledger:
        await ledger.append([change(1)])
    with pytest.raises(LedgerExists):
        await begin_ledger(config, HandClock())
    async with open_ledger(config, HandClock(), may_begin=False) as ledger:
        assert (await ledger.head()).position.seq == 2


@pytest.mark.postgres
async def test_an_empty_server_database_stays_without_tables(postgres_url: str, tmp_path: Path) -> None:
    config = ledger_config(tmp_path, postgres_url)
    with pytest.raises(NoLedger, match="restore the one that was lost"):
        async with open_ledger(config, HandClock(), may_begin=False):
            pass
    database = Database.of(config)
    assert database.inspect(lambda connection: sa.inspect(connection).get_table_names()) == []
    database.dispose()
    await begin_ledger(config, HandClock())
    with pytest.raises(LedgerExists):
        await begin_ledger(config, HandClock())


def test_the_command_begins_a_ledger_once_and_not_where_one_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, record = tmp_path / "admin.toml", Record(tmp_path / "record", KEY)
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger_config(tmp_path, url)
    settings.write_text(
        settings_text(tmp_path, url).replace("[ledger]", f'[ledger]\nbackup-record = "{record.directory}"')
    )
    words = ["ledger", "create", "--config", str(settings)]
    assert (run(words), "no such directory" in capsys.readouterr().err) == (2, True)
    record.directory.mkdir()
    assert (run(words), capsys.readouterr().out) == (0, "a new sandbox ledger begins; start the service\n")
    assert (run(words), capsys.readouterr().err) == (5, "ccs: the database holds a ledger already\n")
    place = place_in(tmp_path)
    record.note_shipped(place.newest(publish(place, 1)))
    (tmp_path / "ledger.db").unlink()
    assert (run(words), "restore it" in capsys.readouterr().err) == (5, True)
    assert not (tmp_path / "ledger.db").exists()
    assert run([*words, "--in-spite-of-record"]) == 0


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
