"""What a node earned in one place is believed nowhere else: not in a copy, not after a boot."""

import shutil
from pathlib import Path

import msgspec
import pytest

from engine.clock import BootTime
from engine.consent.records import PolicyRecord
from engine.decision.freshness import MAX_SILENCE, FreshnessState, freshness_of
from engine.replica.generations import ReplicaUnwritable
from engine.replica.layout import pack_bound, unpack_bound
from engine.replica.place import ReplicaReplaced, place_of, require_place
from engine.replica.reader import Replica
from tests.support.replicas import BOOT, MAP_SIZE, NOW, OTHER_BOOT, bound, open_store

UP = BootTime(100.0)


def judged(directory: Path, boot_id: str = BOOT) -> FreshnessState:
    """As a worker does that was started on this directory."""
    replica = Replica(directory, map_size=MAP_SIZE)
    try:
        replica.refresh()
        with replica.transaction() as view:
            place = place_of(directory, boot_id)
            return freshness_of(view.bound, PolicyRecord(), boot_id=place, boot=UP, now=NOW).state
    finally:
        replica.close()


def current_replica(directory: Path) -> None:
    """A replica that was proven a moment ago, by a writer that never closed it."""
    place = place_of(directory, BOOT)
    store = open_store(directory, boot_id=place)
    generation = store.begin_generation()
    generation.seal(msgspec.structs.replace(bound(0), boot_id=place, fresh_until=BootTime(UP + MAX_SILENCE), as_of=NOW))
    store.adopt(generation)
    store._lock.release()


def test_a_directory_keeps_its_name_and_no_copy_has_it(tmp_path: Path) -> None:
    place = place_of(tmp_path / "one", BOOT)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert place_of(tmp_path / "one", BOOT) == place
    assert place_of(tmp_path / "copy", BOOT) != place
    (tmp_path / "one").rename(tmp_path / "moved")
    assert place_of(tmp_path / "moved", BOOT) == place
    assert place_of(tmp_path / "moved", OTHER_BOOT) != place


def test_whoever_finds_another_directory_in_its_place_starts_anew(tmp_path: Path) -> None:
    """What is earned there it would never believe. One that is gone is no other, yet."""
    directory = tmp_path / "replica"
    place = place_of(directory, BOOT)
    require_place(directory, BOOT, place)
    directory.rename(tmp_path / "away")
    require_place(directory, BOOT, place)
    directory.mkdir()
    with pytest.raises(ReplicaReplaced):
        require_place(directory, BOOT, place)


def test_a_place_has_room_in_the_stored_bound(tmp_path: Path) -> None:
    here = msgspec.structs.replace(bound(3), boot_id=place_of(tmp_path, BOOT))
    assert unpack_bound(pack_bound(here)) == (here, False)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReplicaUnwritable):
        place_of(tmp_path / "file" / "replica", BOOT)


def test_a_copy_of_a_current_replica_is_last_known(tmp_path: Path) -> None:
    """Nobody reports for the copy what it has applied: a revocation could be effective without it."""
    current_replica(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy", symlinks=True)
    assert judged(tmp_path / "one") is FreshnessState.CURRENT
    assert judged(tmp_path / "one", OTHER_BOOT) is FreshnessState.LAST_KNOWN
    assert judged(tmp_path / "copy") is FreshnessState.LAST_KNOWN


def test_a_copy_made_while_it_was_written_is_thrown_away_by_its_writer(tmp_path: Path) -> None:
    """It may be torn; one that was closed in order is kept."""
    current_replica(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "torn", symlinks=True)
    torn = open_store(tmp_path / "torn", boot_id=place_of(tmp_path / "torn", BOOT))
    assert (torn.bound, torn.discarded) == (None, "it was being written when it was copied or the machine went down")
    torn.close()
    open_store(tmp_path / "one", boot_id=place_of(tmp_path / "one", BOOT)).close()
    shutil.copytree(tmp_path / "one", tmp_path / "sound", symlinks=True)
    sound = open_store(tmp_path / "sound", boot_id=place_of(tmp_path / "sound", BOOT))
    assert sound.bound is not None
    assert sound.discarded is None
    sound.close()
