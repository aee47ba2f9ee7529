"""How much a replica holds: entries and bytes by database, and its bound. For people, not for the hot path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.decision.freshness import Bound
from engine.replica import layout
from engine.replica.environment import Environment, translated
from engine.replica.generations import current_name
from engine.replica.reader import view_of


class DatabaseSize(msgspec.Struct, frozen=True):
    """One LMDB database. bytes: pages in use, times the page size."""

    name: str
    entries: int
    bytes: int


class Inventory(msgspec.Struct, frozen=True):
    """What stands in the generation in use. file_bytes: what the file takes on disk."""

    generation: str
    bound: Bound | None
    file_bytes: int
    databases: tuple[DatabaseSize, ...]


def take_inventory(directory: Path, *, map_size: int) -> Inventory | None:
    """Count what a replica holds; None = there is none. Raises ReplicaUnreadable, BrokenReplica."""
    generation = current_name(directory)
    if generation is None:
        return None
    environment = Environment(directory / generation, map_size=map_size, writable=False)
    try:
        with view_of(environment) as view:
            bound = view.bound
        return Inventory(generation, bound, _on_disk(directory / generation), _sizes(environment))
    finally:
        environment.close()


def _sizes(environment: Environment) -> tuple[DatabaseSize, ...]:
    handles = {
        layout.CONSENTS: environment.consents,
        layout.PARTICIPANTS: environment.participants,
        layout.THUMBPRINTS: environment.thumbprints,
        layout.TOKEN_REVOCATIONS: environment.token_revocations,
        layout.POLICY: environment.policy,
        layout.META: environment.meta,
        layout.RECOVERY: environment.recovery,
        layout.DOUBTS: environment.doubts,
    }
    with translated(), environment.lmdb.begin() as txn:
        return tuple(_size(name.decode(), txn.stat(handle)) for name, handle in handles.items())


def _size(name: str, stat: Mapping[str, Any]) -> DatabaseSize:
    pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return DatabaseSize(name, stat["entries"], pages * stat["psize"])


def _on_disk(generation: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in generation.rglob("*") if path.is_file())
