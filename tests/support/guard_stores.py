"""A guard's store on disk for tests: its key, its settings, a clock that is set by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from admin.pki.key_files import write_private
from engine.clock import UnixTime
from engine.guard.config import Store
from engine.guard.store import GuardStore
from tests.support.known_tokens import NOW

OWNER = "edp-1"


class Wall:
    """Wall time. It stands an hour before what the tests' answers rest on, so that a new store takes them."""

    def __init__(self) -> None:
        self.at = UnixTime(NOW - 3_600)

    def __call__(self) -> UnixTime:
        return self.at

    def forward(self, seconds: int) -> None:
        self.at = UnixTime(self.at + seconds)


def store_settings(directory: Path, **settings: Any) -> Store:
    """Settings of a store below a directory, its key made if need be."""
    key = directory / "key" / "store.key"
    if not key.exists():
        key.parent.mkdir(parents=True)
        write_private(key, bytes(range(32)))
    return Store(directory=directory / "store", key_file=key, **settings)


@contextmanager
def opened(directory: Path, wall: Wall | None = None, owner: str = OWNER, **settings: Any) -> Iterator[GuardStore]:
    """The store, closed in order at the end."""
    store = GuardStore(store_settings(directory, **settings), owner, wall or Wall())
    try:
        yield store
    finally:
        store.close()


def crash(store: GuardStore) -> None:
    """What is left when the process dies: nothing is written any more, and the lock is free."""
    store._table.sealed.table._db.close()
    store._home.release()
