"""The erasure journal: every erasure is in it before it is done, and nobody else's word is."""

import os
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from admin.config import Ledger
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.erasures import BrokenJournal, Erasure, ErasureJournal, Line, ledger_id, read_journal
from admin.ledger.schema import erasures, person_keys
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import LedgerUnavailable
from engine.clock import UnixTime
from engine.config import BadConfig
from tests.support.ledger import HandClock, change, ledger_config, tamper


@pytest.fixture
def config(tmp_path: Path) -> Ledger:
    """A ledger whose journal lies in another place."""
    (tmp_path / "elsewhere").mkdir()
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    return msgspec.structs.replace(config, erasure_journal=tmp_path / "elsewhere" / "erasures.jsonl")


def journal_of(config: Ledger) -> Path:
    assert config.erasure_journal is not None
    return config.erasure_journal


def key_of(config: Ledger) -> CheckpointKey:
    return CheckpointKey.from_file(config.checkpoint_key_file)


async def read(config: Ledger, ledger: SqlLedger) -> list[Erasure]:
    return read_journal(journal_of(config), key_of(config), await ledger.database.read(ledger_id))


async def test_erasures_are_written_down_in_both_places(config: Ledger) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        assert await read(config, ledger) == []  # there from the start, so that its absence says something
        await ledger.append([change(1, person="p-1"), change(2, person="p-2")])
        await ledger.erase_person("p-1")
        await ledger.erase_person("p-1")  # nothing is left to erase
        await ledger.append([change(3, person="p-1")])
        await ledger.erase_person("p-1")  # the key drawn since
        found = await read(config, ledger)
        kept = await ledger.database.read(lambda c: c.execute(sa.select(erasures).order_by(erasures.c.number)).all())
    assert [(one.person_id, one.erased_at) for one in found] == [("p-1", HandClock().time)] * 2
    assert found[0].key_id != found[1].key_id
    assert [(row.number, row.person_id, row.key_id) for row in kept] == [
        (number, one.person_id, one.key_id) for number, one in enumerate(found, 1)
    ]
    assert journal_of(config).stat().st_mode & 0o077 == 0


async def test_nobody_is_erased_who_could_come_back(config: Ledger) -> None:
    """The other place is away: the person stays, and whoever asked is told."""
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1, person="p-1")])
        journal_of(config).unlink()
        journal_of(config).parent.rmdir()
        with pytest.raises(LedgerUnavailable, match="nobody was erased"):
            await ledger.erase_person("p-1")
        state = await ledger.subject(change(1).subject)
        assert state is not None
        assert state.personal == b"meter points of p-1"
        assert await ledger.database.read(lambda c: c.execute(sa.select(erasures)).all()) == []


async def test_a_place_that_is_away_does_not_keep_the_ledger_from_opening(config: Ledger) -> None:
    journal_of(config).parent.rmdir()
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1)])


async def test_the_journal_is_written_before_the_key_is_destroyed(config: Ledger) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1, person="p-1")])
        tamper(
            config.url, sa.text("CREATE TRIGGER no BEFORE DELETE ON person_keys BEGIN SELECT RAISE(ABORT, 'no'); END")
        )
        with pytest.raises(Exception, match="refused a statement"):
            await ledger.erase_person("p-1")
        assert [one.person_id for one in await read(config, ledger)] == ["p-1"]
        assert await ledger.database.read(lambda c: c.execute(sa.select(person_keys.c.person_id)).scalar()) == "p-1"


async def test_a_torn_last_line_is_of_an_erasure_that_was_not_done(config: Ledger) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1, person="p-1"), change(2, person="p-2")])
        await ledger.erase_person("p-1")
        whole = journal_of(config).stat().st_size
        await ledger.erase_person("p-2")
        os.truncate(journal_of(config), whole + 30)
        assert [one.person_id for one in await read(config, ledger)] == ["p-1"]
        await ledger.append([change(3, person="p-3")])
        await ledger.erase_person("p-3")
        assert [one.person_id for one in await read(config, ledger)] == ["p-1", "p-3"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"p-1"', b'"p-9"'),
        (b'"erased_at":18', b'"erased_at":19'),
        (b'{"erasure"', b'{"erasur"'),
        (b'"p-1"', b'"\xff"'),
    ],
    ids=["person", "time", "form", "no text"],
)
async def test_a_changed_line_is_refused(config: Ledger, before: bytes, after: bytes) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1, person="p-1")])
        await ledger.erase_person("p-1")
        raw = journal_of(config).read_bytes()
        assert before in raw
        journal_of(config).write_bytes(raw.replace(before, after, 1))
        with pytest.raises(BrokenJournal, match="line 1"):
            await read(config, ledger)


async def test_a_line_of_another_key_or_another_ledger_is_refused(config: Ledger, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = CheckpointKey.from_file(ledger_config(tmp_path / "other", "sqlite://").checkpoint_key_file)
    async with open_ledger(config, HandClock()) as ledger:
        ours = await ledger.database.read(ledger_id)
        erasure = Erasure(ours, "p-1", b"key id", UnixTime(5))
        ErasureJournal(journal_of(config), other).add(erasure)
        with pytest.raises(BrokenJournal, match="not signed by this ledger's checkpoint key"):
            await read(config, ledger)
        journal_of(config).unlink()
        ErasureJournal(journal_of(config), key_of(config)).add(msgspec.structs.replace(erasure, ledger="0" * 32))
        with pytest.raises(BrokenJournal, match="another ledger"):
            await read(config, ledger)


async def test_a_missing_journal_is_told_from_an_empty_one(config: Ledger, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        read_journal(tmp_path / "nowhere", key_of(config), "0" * 32)


async def test_the_journal_names_no_more_than_it_must(config: Ledger) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(1, person="p-1")])
        await ledger.erase_person("p-1")
    line = msgspec.json.decode(journal_of(config).read_bytes(), type=Line, strict=True)
    assert set(msgspec.structs.asdict(line)) == {"erasure", "kid", "signature"}
    assert b"meter points" not in journal_of(config).read_bytes()
