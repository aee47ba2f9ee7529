"""The replica's writer: order, idempotence, and what survives which death."""

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import ClientId, OnSilence, PolicyRecord
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import EntryKind
from engine.replica.environment import ReplicaFull
from engine.replica.generations import ReplicaInUse, ReplicaUnwritable
from engine.replica.reader import View, view_of
from engine.replica.store import OutOfOrder, ReplicaStore, write_entries
from tests.support.replicas import (
    BOOT,
    INCARNATION,
    NOW,
    OTHER_BOOT,
    OTHER_INCARNATION,
    bound,
    consent,
    consent_entry,
    consent_key,
    filled,
    nothing,
    open_store,
    participant,
    participant_entry,
    policy_entry,
    revocation_entry,
    thumbprint,
)

TOKEN_LIFE = Seconds(3_600.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplicaStore]:
    opened = filled(open_store(tmp_path / "replica"))
    yield opened
    opened.close()


def view(store: ReplicaStore) -> View:
    assert store.environment is not None
    return view_of(store.environment)


def test_entries_and_bound_are_applied_together(store: ReplicaStore) -> None:
    earned = Bound(INCARNATION, 2, BOOT, BootTime(12.5), NOW)
    store.apply([consent_entry(1, 1), revocation_entry(2, b"r" * 16, NOW)], earned)
    with view(store) as seen:
        assert seen.bound == earned == store.bound
        assert seen.consent(consent_key(1)) == consent()
        assert seen.token_revoked(b"r" * 16)
        assert not seen.token_revoked(b"s" * 16)


def test_an_empty_entry_only_moves_the_position(store: ReplicaStore) -> None:
    store.apply([nothing(1)], bound(1))
    assert store.bound == bound(1)


@pytest.mark.parametrize(
    ("entries", "reached"),
    [
        ([nothing(2)], bound(2)),
        ([nothing(1), nothing(3)], bound(3)),
        ([nothing(1), nothing(1)], bound(2)),
        ([nothing(0)], bound(1)),
        ([nothing(1)], bound(2)),
        ([nothing(1)], bound(1, incarnation=OTHER_INCARNATION)),
        ([nothing(1, incarnation=OTHER_INCARNATION)], bound(1)),
    ],
)
def test_what_does_not_follow_is_refused_whole(store: ReplicaStore, entries: list[object], reached: Bound) -> None:
    with pytest.raises(OutOfOrder):
        store.apply(entries, reached)  # type: ignore[arg-type] - a table of cases
    assert store.bound == bound(0)


def test_the_higher_position_wins_whatever_the_order(store: ReplicaStore) -> None:
    revoked = consent(State.REVOKED, version=2)
    environment = store.environment
    assert environment is not None
    for batch in ([consent_entry(7, 1, revoked)], [consent_entry(3, 1)], [consent_entry(7, 1, consent())]):
        with environment.writing() as txn:
            write_entries(environment, txn, batch)
        with view(store) as seen:
            assert seen.consent(consent_key(1)) == revoked


def test_thumbprints_follow_the_participant(store: ReplicaStore) -> None:
    store.apply([participant_entry(1, participant("edp-north", "a", "b"))], bound(1))
    store.apply([participant_entry(2, participant("edp-north", "b", "c", suspended=True))], bound(2))
    with view(store) as seen:
        assert seen.participant_by_thumbprint(thumbprint("a")) is None
        for name in "bc":
            found = seen.participant_by_thumbprint(thumbprint(name))
            assert found is not None
            assert found.suspended


def test_a_certificate_that_went_to_another_client_stays_there(store: ReplicaStore) -> None:
    store.apply([participant_entry(1, participant("edp-north", "a"))], bound(1))
    store.apply([participant_entry(2, participant("edp-south", "a"))], bound(2))
    store.apply([participant_entry(3, participant("edp-north", "b"))], bound(3))
    with view(store) as seen:
        found = seen.participant_by_thumbprint(thumbprint("a"))
        assert found is not None
        assert found.client_id == "edp-south"


def test_policy_has_defaults_until_it_is_set(store: ReplicaStore) -> None:
    with view(store) as seen:
        assert seen.policy() == PolicyRecord()
    halt = PolicyRecord(on_silence=OnSilence.HALT)
    store.apply([policy_entry(1, halt)], bound(1))
    with view(store) as seen:
        assert seen.policy() == halt


def test_keys_are_kept(store: ReplicaStore) -> None:
    assert store.keys() is None
    store.put_keys(b'{"issuer": "x"}')
    with view(store) as seen:
        assert seen.keys() == b'{"issuer": "x"}' == store.keys()


def test_nothing_can_be_applied_before_the_first_snapshot(tmp_path: Path) -> None:
    empty = open_store(tmp_path / "replica")
    assert empty.bound is None
    with pytest.raises(OutOfOrder):
        empty.apply([nothing(1)], bound(1))
    empty.close()


def test_ended_consents_are_forgotten_after_their_period_and_a_tokens_life(store: ReplicaStore) -> None:
    over = NOW - 4_000
    entries = [
        consent_entry(1, 1, consent(State.REVOKED, expires_at=over)),
        consent_entry(2, 2, consent(State.ACTIVE, expires_at=over)),
        consent_entry(3, 3, consent(State.EXPIRED, expires_at=NOW - 3_000)),
        consent_entry(4, 4, consent(State.CONSUMED, expires_at=over)),
        revocation_entry(5, b"a" * 16, NOW),
        revocation_entry(6, b"b" * 16, NOW + 1),
    ]
    store.apply(entries, bound(6))
    assert store.sweep(NOW, TOKEN_LIFE, 100) == 3
    with view(store) as seen:
        assert [seen.consent(consent_key(n)) is None for n in (1, 2, 3, 4)] == [True, False, False, True]
        assert [seen.token_revoked(b * 16) for b in (b"a", b"b")] == [False, True]


def test_a_sweep_is_bounded_and_goes_round(store: ReplicaStore) -> None:
    ended = consent(State.REVOKED, expires_at=NOW - 10_000)
    store.apply([consent_entry(n, n, ended) for n in range(1, 8)], bound(7))
    assert [store.sweep(NOW, TOKEN_LIFE, 3) for _ in range(4)] == [3, 3, 1, 0]
    store.apply([consent_entry(8, 1, ended)], bound(8))
    assert sum(store.sweep(NOW, TOKEN_LIFE, 3) for _ in range(2)) == 1


@pytest.mark.usefixtures("store")
def test_files_are_private(tmp_path: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "replica").rglob("*") if path.is_file()}
    assert set(modes) == {"lock", "mark", "data.mdb", "lock.mdb"}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "replica").stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("store")
def test_a_second_writer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReplicaInUse, match=f"already written by process {os.getpid()}$"):
        open_store(tmp_path / "replica")


def test_a_directory_that_cannot_be_used_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ReplicaUnwritable):
        open_store(tmp_path / "file" / "replica")


def test_a_clean_end_survives_a_reboot(tmp_path: Path) -> None:
    first = filled(open_store(tmp_path), [consent_entry(1, 1)])
    first.close()
    second = open_store(tmp_path, boot_id=OTHER_BOOT)
    assert second.discarded is None
    assert second.bound == bound(1)
    second.close()


WRITER = """
import sys
from pathlib import Path
from tests.support.replicas import *
store = open_store(Path(sys.argv[1]), boot_id=sys.argv[2])
if store.bound is None:
    filled(store)
print("ready", flush=True)
seq = store.bound.applied
while True:
    batch = [consent_entry(n, n % 50, consent(version=n)) for n in range(seq + 1, seq + 8)]
    seq += 7
    store.apply(batch, bound(seq))
"""


def killed_writer(directory: Path, after: float, boot_id: str = BOOT) -> None:
    """Start a writer process, let it work, kill it with SIGKILL."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(directory), boot_id], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_writer_leaves_cursor_and_data_in_agreement(tmp_path: Path) -> None:
    """Every value's version is the newest entry for its key up to the cursor: neither torn, ahead nor behind."""
    rng = random.Random(7)  # noqa: S311 - varies a test
    reached = 0
    for _ in range(12):
        killed_writer(tmp_path, rng.uniform(0.005, 0.06))
        store = open_store(tmp_path)
        assert store.discarded is None
        assert store.bound is not None
        assert store.bound.applied >= reached
        reached = store.bound.applied
        with view(store) as seen:
            for number in range(50):
                found = seen.consent(consent_key(number))
                newest = max((n for n in range(max(1, reached - 49), reached + 1) if n % 50 == number), default=None)
                assert (found.consent_version if found else None) == newest
        store.close()
    assert reached > 100


def test_a_file_of_a_writer_that_died_with_its_machine_is_thrown_away(tmp_path: Path) -> None:
    killed_writer(tmp_path, 0.02, boot_id=OTHER_BOOT)
    store = open_store(tmp_path, boot_id=BOOT)
    assert store.bound is None
    assert store.discarded == "it was being written when it was copied or the machine went down"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    store.close()


def test_a_start_that_did_not_survive_the_file_is_not_repeated(tmp_path: Path) -> None:
    filled(open_store(tmp_path)).close()
    (mark,) = tmp_path.glob("generation-*/mark")
    mark.write_text("trial")
    store = open_store(tmp_path)
    assert store.discarded == "an earlier start did not survive opening it"
    store.close()


def cut_in_half(data: Path) -> None:
    os.truncate(data, data.stat().st_size // 2)


def overwrite(data: Path) -> None:
    data.write_bytes(os.urandom(data.stat().st_size))


def empty(data: Path) -> None:
    data.write_bytes(b"")


def make_a_directory_of_it(data: Path) -> None:
    data.unlink()
    data.mkdir()


def forget_the_mark(data: Path) -> None:
    (data.parent / "mark").unlink()


@pytest.mark.parametrize("damage", [cut_in_half, overwrite, empty, make_a_directory_of_it, forget_the_mark])
def test_a_broken_file_is_thrown_away(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    filled(open_store(tmp_path), [consent_entry(n, n) for n in range(1, 500)]).close()
    (data,) = tmp_path.glob("generation-*/data.mdb")
    damage(data)
    store = open_store(tmp_path)
    assert store.bound is None
    assert store.discarded
    assert not list(tmp_path.glob("generation-*"))
    filled(store, [consent_entry(1, 1)])
    store.close()


def test_a_sound_file_that_ends_early_is_kept(tmp_path: Path) -> None:
    """LMDB may leave free pages at the end unwritten; their absence loses nothing."""
    ended = consent(State.REVOKED, expires_at=0)
    store = filled(open_store(tmp_path), [consent_entry(n, n, ended) for n in range(1, 2_000)])
    for _ in range(5):  # all consents go, and small changes move into the pages set free at the front
        store.sweep(NOW, TOKEN_LIFE, 2_000)
        store.put_keys(b"{}")
    store.close()
    (data,) = tmp_path.glob("generation-*/data.mdb")
    os.truncate(data, data.stat().st_size - 20 * 4096)
    again = open_store(tmp_path)
    assert again.discarded is None
    assert again.bound == bound(1_999)
    again.close()


def test_a_full_replica_writes_nothing_and_stays_readable(tmp_path: Path) -> None:
    store = filled(open_store(tmp_path, map_size=1 << 17))
    seq = 0
    with pytest.raises(ReplicaFull):  # noqa: PT012 - which of many writes fills it is not the point
        while seq < 100_000:
            store.apply([consent_entry(seq + n, seq + n) for n in range(1, 11)], bound(seq + 10))
            seq += 10
    assert store.bound == bound(seq)
    with view(store) as seen:
        assert seen.bound == bound(seq)
        assert seen.consent(consent_key(seq)) is not None
        assert seen.consent(consent_key(seq + 1)) is None
    store.close()
    assert open_store(tmp_path, map_size=1 << 17).bound == bound(seq)


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Within the block this process can write no file beyond that many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_a_full_replica_and_room_mends_it(store: ReplicaStore) -> None:
    assert store.environment is not None
    many = [consent_entry(number, number) for number in range(1, 2_001)]
    with no_room_beyond((store.environment.path / "data.mdb").stat().st_size):
        with pytest.raises(ReplicaFull, match="disk"):
            store.apply(many, bound(2_000))
        assert store.bound == bound(0)
        with view(store) as seen:
            assert (seen.bound, seen.consent(consent_key(1))) == (bound(0), None)
    store.apply(many, bound(2_000))
    assert store.bound == bound(2_000)


def test_a_start_without_room_on_the_disk_keeps_the_replica_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(open_store(tmp_path), [consent_entry(1, 1)]).close()

    def full(*_: object, **__: object) -> None:
        raise ReplicaFull("the disk does not take what the replica writes: make room on it")

    with monkeypatch.context() as patched:
        patched.setattr("engine.replica.store.Generation.put_bound", full)
        for _ in range(2):  # the first try must not be held against the file at the second
            with pytest.raises(ReplicaFull):
                open_store(tmp_path)
    again = open_store(tmp_path)
    assert (again.discarded, again.bound) == (None, bound(1))
    again.close()


READER = """
import sys, time
from pathlib import Path
from engine.replica.reader import Replica
from tests.support.replicas import MAP_SIZE
replica = Replica(Path(sys.argv[1]), map_size=MAP_SIZE)
with replica.transaction() as view:
    print(view.bound.applied, flush=True)
    time.sleep(60)
"""


def test_the_slot_of_a_killed_reader_is_freed_and_the_file_stops_growing(store: ReplicaStore, tmp_path: Path) -> None:
    entries = [consent_entry(n, n) for n in range(1, 2_000)]
    store.apply(entries, bound(entries[-1].seq))
    directory = tmp_path / "replica"
    with subprocess.Popen([sys.executable, "-c", READER, str(directory)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"1999\n"
        reader.kill()
    (data,) = directory.glob("generation-*/data.mdb")
    rng, seq = random.Random(3), 1_999  # noqa: S311 - varies a test

    def churn() -> int:
        nonlocal seq
        for _ in range(400):
            seq += 1
            store.apply([consent_entry(seq, rng.randrange(1, 2_000), consent(version=seq))], bound(seq))
        return data.stat().st_size

    before = data.stat().st_size
    pinned = churn()
    assert pinned > 2 * before
    assert store.reader_check() == 1
    churn()
    assert churn() <= pinned * 1.1


def test_a_generation_that_did_not_become_whole_leaves_no_trace(store: ReplicaStore, tmp_path: Path) -> None:
    generation = store.begin_generation()
    assert len(list((tmp_path / "replica").glob("generation-*"))) == 2
    store.abandon(generation)
    assert len(list((tmp_path / "replica").glob("generation-*"))) == 1
    store.apply([nothing(1)], bound(1))


def test_a_half_filled_generation_is_removed_at_the_next_start(tmp_path: Path) -> None:
    store = filled(open_store(tmp_path), [nothing(1)])
    store.begin_generation().close(clean=False)
    store.close()
    again = open_store(tmp_path)
    assert again.bound == bound(1)
    assert len(list(tmp_path.glob("generation-*"))) == 1
    again.close()


def test_kinds_without_a_record_here_only_move_the_position(store: ReplicaStore) -> None:
    receivers = consent_entry(1, 1)
    store.apply([type(receivers)(INCARNATION, 1, EntryKind.RECEIVER, b"x", b"y")], bound(1))
    store.apply([type(receivers)(INCARNATION, 2, EntryKind.KEYS)], bound(2))
    with view(store) as seen:
        assert seen.bound == bound(2)
        assert seen.participant(ClientId("x")) is None


def test_wrong_wall_clock_in_the_future_keeps_active_consents(store: ReplicaStore) -> None:
    store.apply([consent_entry(1, 1)], bound(1))
    assert store.sweep(UnixTime(NOW * 2), TOKEN_LIFE, 100) == 0
