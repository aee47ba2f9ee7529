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
from admin.ledger.backup.contents import End, Head, Marks, encode
from admin.ledger.backup.filling import Keys, Restored
from admin.ledger.backup.place import Place
from admin.ledger.backup.restoring import choose, restore
from admin.ledger.backup.retention import DAY
from admin.ledger.backup.sealed import BackupKey, SealedWriter
from admin.ledger.backup.shipping import Shipper
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.database import Database
from admin.ledger.personal import Safe
from admin.ledger.sql import SqlLedger, open_ledger
from engine.clock import UnixTime
from tests.support.ledger import HandClock

KEY = BackupKey(bytes(range(32)))
NOW = time()  # commands read the real clock
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


def marks(seq: int, wall: float) -> Marks:
    return Marks("incarnation", seq, b"hash", 0, 0, wall, b"")


def publish(place: Place, days: float, *, segments: int = 2, seq: int | None = None, ledger: str = "ledger") -> str:
    """A series that began so many days ago, a segment an hour; returns its name."""
    began = NOW - days * DAY
    name = place.new_series(began)
    after: Marks | None = None
    for index in range(segments):
        until = marks((int(1e6 - 100 * days) if seq is None else seq) + index, began + 3600 * index)
        head = Head(ledger, "sandbox", "0004", UnixTime(1), None, after, until, UnixTime(int(until.wall)))

        def write(writer: SealedWriter, said: bytes = encode(head)) -> None:
            writer.write(said)
            writer.write(encode(End({})))

        place.publish(name, index, write)
        after = until
    return name
