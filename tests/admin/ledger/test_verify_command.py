"""`ccs ledger verify` where the database itself is damaged: it still says how far the ledger is whole."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from admin.ledger.schema import events, ledger_meta
from admin.ledger.sql import open_ledger
from admin.ledger.vouching import Vouching
from tests.support.ledger import HandClock, change, ledger_config, settings_text, tamper


@pytest.fixture
async def settings(tmp_path: Path) -> Path:
    """Settings of a ledger of six events, vouched for as the service does it."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with open_ledger(ledger_config(tmp_path, url), HandClock()) as ledger:
        await ledger.append([change(number) for number in range(5)])
        await Vouching(ledger).try_once()
        await ledger.database.scrub()
    (tmp_path / "admin.toml").write_text(settings_text(tmp_path, url))
    return tmp_path / "admin.toml"


def verify(settings: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "admin.cli", "ledger", "verify", "--config", str(settings), "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


async def test_no_database_at_all_is_told_as_damage(settings: Path) -> None:
    settings.with_name("ledger.db").write_bytes(b"\xde\xad" * 8192)
    done = verify(settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (7, 1)
    assert "the database is damaged; no event can be read" in done.stderr
    found = msgspec.json.decode(done.stdout)
    assert (found["whole"], found["events"], found["fault"]["seq"]) == (False, 0, 1)


async def test_missing_table_is_told_with_the_last_event(settings: Path) -> None:
    tamper(f"sqlite:///{settings.parent}/ledger.db", sa.text("DROP TABLE ledger_meta"))
    done = verify(settings)
    assert done.returncode == 7
    assert "event 6 is the last that could be checked" in done.stderr
    found = msgspec.json.decode(done.stdout)
    assert (found["whole"], found["events"], found["checkpoints"], found["head"]["seq"]) == (False, 6, 1, 6)


async def test_end_cut_off_is_shown_by_the_checkpoint_of_an_earlier_run(settings: Path) -> None:
    earlier = msgspec.json.decode(verify(settings).stdout)
    kept = settings.with_name("kept.json")
    kept.write_bytes(msgspec.json.encode(earlier["checkpoint"]))
    last = sa.select(events.c.hash).where(events.c.seq == 4).scalar_subquery()
    tamper(
        f"sqlite:///{settings.parent}/ledger.db",
        *(sa.text(f"DELETE FROM {table} WHERE seq > 4") for table in ("events", "checkpoints")),  # noqa: S608 - ours
        *(sa.text(f"DELETE FROM {table} WHERE seq > 4") for table in ("subjects", "feed_records")),  # noqa: S608 - ours
        sa.update(ledger_meta).values(head_seq=4, head_hash=last),
    )
    assert verify(settings).returncode == 0
    done = verify(settings, "--against", kept)
    assert done.returncode == 7
    assert msgspec.json.decode(done.stdout)["fault"]["seq"] == 6
