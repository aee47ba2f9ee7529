"""Filling a generation: what is refused leaves no trace."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.clock import BootTime
from engine.consent.records import PolicyRecord
from engine.consent.states import State
from engine.decision.freshness import Bound, FreshnessState, freshness_of
from engine.errors import Fault
from engine.feed.entries import Entry, EntryKind, ForgedEntry, Position, seal
from engine.feed.snapshots import BrokenSnapshot
from engine.replica import snapshot
from engine.replica.environment import ReplicaFull
from engine.replica.reader import view_of
from engine.replica.snapshot import SnapshotLoader, StaleSnapshot, bound_after
from engine.replica.store import ReplicaStore
from tests.support.replicas import (
    BOOT,
    INCARNATION,
    MAC_KEY,
    NOW,
    OTHER_INCARNATION,
    bound,
    consent,
    consent_entry,
    consent_key,
    filled,
    open_store,
    participant,
    participant_entry,
    policy_entry,
    revocation_entry,
    snapshot_of,
    thumbprint,
)

POSITION = Position(INCARNATION, 40)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplicaStore]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def everything() -> list[Entry]:
    halt = PolicyRecord()
    return [
        *(consent_entry(n, n, consent(version=n)) for n in range(1, 31)),
        revocation_entry(31, b"r" * 16, NOW + 60),
        participant_entry(32, participant("edp-north", "a")),
        Entry(INCARNATION, 33, EntryKind.RECEIVER, b"somebody", b"record"),
        policy_entry(34, halt),
        consent_entry(45, 7, consent(State.REVOKED, version=2)),  # newer than the snapshot's position
    ]


def load(store: ReplicaStore, sealed: list[bytes]) -> None:
    generation = store.begin_generation()
    try:
        loader = SnapshotLoader(generation, (MAC_KEY,))
        for item in sealed:
            loader.take(item)
        position = loader.finish()
        generation.seal(bound(position.seq, incarnation=position.incarnation))
    except Fault:
        store.abandon(generation)
        raise
    store.adopt(generation)


@pytest.mark.parametrize("batch", [1, 7, 4_000])
def test_a_snapshot_brings_every_record(store: ReplicaStore, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(snapshot, "BATCH", batch)
    load(store, snapshot_of(POSITION, everything()))
    assert store.bound == bound(40)
    assert store.environment is not None
    with view_of(store.environment) as view:
        assert [view.consent(consent_key(n)) for n in (1, 30)] == [consent(version=1), consent(version=30)]
        assert view.token_revoked(b"r" * 16)
        assert view.participant_by_thumbprint(thumbprint("a")) == participant("edp-north", "a")
        assert view.policy() == PolicyRecord()


def test_entries_after_a_snapshot_do_not_undo_what_was_newer_in_it(store: ReplicaStore) -> None:
    load(store, snapshot_of(POSITION, everything()))
    between = [consent_entry(41, 7, consent(version=3)), *(Entry(INCARNATION, n, EntryKind.NOTHING) for n in (42, 43))]
    store.apply(between, bound(43))
    assert store.environment is not None
    with view_of(store.environment) as view:
        assert view.consent(consent_key(7)) == consent(State.REVOKED, version=2)


def without_end(sealed: list[bytes]) -> list[bytes]:
    return sealed[:-1]


def without_beginning(sealed: list[bytes]) -> list[bytes]:
    return sealed[1:]


def with_a_record_missing(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:5], *sealed[6:]]


def out_of_order(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:5], sealed[6], sealed[5], *sealed[7:]]


def of_two_incarnations(sealed: list[bytes]) -> list[bytes]:
    return [*sealed[:5], seal(consent_entry(5, 5, incarnation=OTHER_INCARNATION), MAC_KEY), *sealed[6:]]


def empty(_: list[bytes]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    "spoil", [without_end, without_beginning, with_a_record_missing, out_of_order, of_two_incarnations, empty]
)
def test_a_snapshot_that_is_not_whole_is_refused(
    store: ReplicaStore, tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    with pytest.raises(BrokenSnapshot):
        load(store, spoil(snapshot_of(POSITION, everything())))
    assert store.bound is None
    assert not list(tmp_path.glob("generation-*"))


def test_a_forged_entry_spoils_a_snapshot(store: ReplicaStore) -> None:
    sealed = snapshot_of(POSITION, everything())
    sealed[5] = seal(consent_entry(5, 5), b"x" * 32)
    with pytest.raises(ForgedEntry):
        load(store, sealed)
    assert store.bound is None


def test_a_snapshot_that_does_not_fit_leaves_the_old_replica_alone(tmp_path: Path) -> None:
    store = filled(open_store(tmp_path, map_size=1 << 17), [consent_entry(1, 1)])
    with pytest.raises(ReplicaFull):
        load(store, snapshot_of(Position(INCARNATION, 9_000), [consent_entry(n, n) for n in range(1, 9_000)]))
    store.apply([consent_entry(2, 2)], bound(2))
    assert len(list(tmp_path.glob("generation-*"))) == 1
    store.close()


def test_a_snapshot_is_known_as_of_its_asking_and_not_current() -> None:
    fresh = bound_after(POSITION, None, BOOT, BootTime(100.0), NOW)
    judged = freshness_of(fresh, PolicyRecord(), boot_id=BOOT, boot=BootTime(100.0), now=NOW)
    assert (fresh.applied, judged.state, judged.as_of) == (40, FreshnessState.LAST_KNOWN, NOW)


def test_a_snapshot_older_than_the_replica_is_refused() -> None:
    with pytest.raises(StaleSnapshot):
        bound_after(POSITION, bound(41), BOOT, BootTime(100.0), NOW)
    assert bound_after(POSITION, bound(40), BOOT, BootTime(100.0), NOW).applied == 40


def test_positions_of_another_incarnation_do_not_make_a_snapshot_stale() -> None:
    previous: Bound = bound(9_000, incarnation=OTHER_INCARNATION)
    assert bound_after(POSITION, previous, BOOT, BootTime(100.0), NOW).applied == 40
