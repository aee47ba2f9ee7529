"""A receiver's file of events for tests: its guard's key and anchor stand beside it."""

from collections.abc import Callable
from pathlib import Path

from admin.pki.key_files import write_private
from engine.clock import UnixTime
from engine.guard.config import Store
from engine.guard.event_file import EventSeal, seal_of
from engine.guard.event_store import EventStore
from tests.support.events import EDP, NOW


def store_beside(path: Path, key: bytes = bytes(range(32))) -> Store:
    """Settings of a guard's store in the folder of a file of events; its key is made if need be."""
    key_file = path.parent / "key"
    if not key_file.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(key_file, key)
    return Store(directory=path.parent, key_file=key_file)


def seal_beside(path: Path, owner: str = EDP) -> EventSeal:
    """How that guard's file is sealed."""
    return seal_of(store_beside(path), owner)


def event_store_at(path: Path, wall: Callable[[], UnixTime] = lambda: NOW) -> EventStore:
    """That guard's file."""
    return EventStore(path, seal_beside(path), wall)
