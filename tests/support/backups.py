"""Backups for tests: a place with a key, a shipper on an open ledger, and restores into other databases."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import time

import msgspec
import trio

from admin.config import Ledger
from admin.ledger.backup.filling import Keys, Restored
from admin.ledger.backup.place import Place
from admin.ledger.backup.restoring import choose, restore
from admin.ledger.backup.sealed import BackupKey
from admin.ledger.backup.shipping import Shipper
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.database import Database
from admin.ledger.personal import Safe
from admin.ledger.sql import SqlLedger, open_ledger
from tests.support.ledger import HandClock

KEY = BackupKey(bytes(range(32)))
LATER = 60  # seconds between the last event and the restore, where a test says nothing else


def place_in(directory: Path, key: BackupKey = KEY) -> Place:
    """The other place, made where it is missing."""
    root = directory / "place"
    root.mkdir(exist_ok=True)
    return Place(root, key)


@asynccontextmanager
async def shipping(config: Ledger, place: Place) -> AsyncIterator[tuple[SqlLedger, Shipper]]:
    """An open ledger and what ships it."""
    async with open_ledger(config, HandClock()) as ledger:
        yield ledger, Shipper(ledger.database, place, time)


def keys_of(config: Ledger) -> Keys:
    return Keys(
        config.kind,
        Safe.from_file(config.person_key_file),
        CheckpointKey.from_file(config.checkpoint_key_file),
        config.erasure_journal,
    )


async def restored(
    config: Ledger,
    place: Place,
    *,
    keys: Keys | None = None,
    wall: float | None = None,
    reported: int = 0,
    series: str | None = None,
    segments: int | None = None,
) -> Restored:
    """Restore into the database that the settings name."""
    database = Database.of(config)
    wall = HandClock().time + LATER + 0.5 if wall is None else wall
    work = partial(
        restore, database, place, choose(place, series, segments), keys or keys_of(config), wall, reported=reported
    )
    try:
        return await trio.to_thread.run_sync(work)
    finally:
        database.dispose()


def elsewhere(config: Ledger, url: str) -> Ledger:
    """The same settings on another database."""
    return msgspec.structs.replace(config, url=url)


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def cut(path: Path, to: int) -> None:
    """Cut a file short."""
    os.truncate(path, to)
