"""What workers see, from a process of their own, while the writer goes on, swaps files or is not there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import lmdb
import msgspec
import pytest

from engine.clock import BootTime, UnixTime
from engine.consent.records import LIVE_KEY, ClientId, LiveRecord, PolicyRecord, RestoreRecord
from engine.consent.recovery import Recovery
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind, Position
from engine.replica.environment import ReplicaUnreadable, fault_of
from engine.replica.layout import BrokenReplica, pack_bound, unpack_bound
from engine.replica.reader import LOOK_EVERY, Replica, view_of
from engine.replica.snapshot import SnapshotLoader
from engine.replica.store import ReplicaStore
from tests.support.replicas import (
    BOOT,
    INCARNATION,
    MAC_KEY,
    MAP_SIZE,
    NOW,
    bound,
    consent,
    consent_key,
    entry,
    filled,
    open_store,
    participant,
    revocation_entry,
    snapshot_of,
    thumbprint,
)

WRITER = """
import sys
from pathlib import Path
from tests.support.replicas import *
store = open_store(Path(sys.argv[1]))
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Writer:
    """A writer in a process of its own: LMDB opens a file once per process."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n", line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


class Time:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer(tmp_path) as process:
        yield process


def reader(directory: Path, time: Time | None = None) -> Replica:
    return Replica(directory, map_size=MAP_SIZE, monotonic=time or Time())


def test_without_a_replica_views_are_empty(tmp_path: Path) -> None:
    with reader(tmp_path / "nowhere").transaction() as view:
        assert view.bound is None
        assert view.consent(consent_key(1)) is None
        assert view.participant(ClientId("edp-north")) is None
        assert view.participant_by_thumbprint(thumbprint("a")) is None
        assert not view.token_revoked(b"r" * 16)
        assert view.policy() == PolicyRecord()
        assert view.keys() is None


def test_a_reader_sees_the_writers_transactions_one_at_a_time(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store, [consent_entry(1, 1), participant_entry(2, participant('edp-north', 'a'))])")
    replica = reader(tmp_path)
    with replica.transaction() as view:
        writer.do("store.apply([consent_entry(3, 1, consent(State.REVOKED, version=2))], bound(3))")
        assert view.bound == bound(2)
        assert view.consent(consent_key(1)) == consent()
    with replica.transaction() as view:
        assert view.bound == bound(3)
        assert view.consent(consent_key(1)) == consent(State.REVOKED, version=2)
        assert view.participant(ClientId("edp-north")) == participant("edp-north", "a")
        assert view.participant_by_thumbprint(thumbprint("a")) == participant("edp-north", "a")
    replica.close()


def test_a_changed_participant_is_seen_though_decoded_ones_are_remembered(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store, [participant_entry(1, participant('edp-north', 'a'))])")
    replica = reader(tmp_path)
    seen = []
    for _ in range(2):
        with replica.transaction() as view:
            seen.append(view.participant_by_thumbprint(thumbprint("a")))
        writer.do(
            "store.apply([participant_entry(2, participant('edp-north', 'a', suspended=True))], bound(2))"
            if len(seen) == 1
            else "pass"
        )
    assert [found is not None and found.suspended for found in seen] == [False, True]
    replica.close()


SWAP = "g = store.begin_generation(); g.seal(bound(9)); store.adopt(g)"


def test_the_first_replica_is_found_when_it_comes(writer: Writer, tmp_path: Path) -> None:
    replica = reader(tmp_path)
    writer.do("filled(store)")
    with replica.transaction() as view:
        assert view.bound == bound(0)
    replica.close()


def test_nobody_answers_from_a_replaced_file(writer: Writer, tmp_path: Path) -> None:
    """Once another file is in place its position may be acknowledged: not one request may still see the old one."""
    writer.do("filled(store)")
    replica = reader(tmp_path)  # its clock stands still: only the word left in the old file can tell
    with replica.transaction() as view:
        assert view.bound == bound(0)
    writer.do(SWAP)
    with replica.transaction() as view:
        assert view.bound == bound(9)
    replica.close()


def test_while_the_file_is_being_replaced_there_is_no_replica(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store, [consent_entry(1, 1)])")
    replica = reader(tmp_path)
    writer.do("store._generation.put_bound(bound(1), moved=True)")
    for _ in range(2):
        with replica.transaction() as view:
            assert view.bound is None
            assert view.consent(consent_key(1)) is None
    writer.do("store._generation.put_bound(bound(1))")  # it did not come to that
    with replica.transaction() as view:
        assert view.bound == bound(1)
    replica.close()


def test_a_word_left_by_a_writer_that_died_moving_on_is_taken_back(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.do("filled(store, [consent_entry(1, 1)])")
        writer.do("store._generation.put_bound(bound(1), moved=True)")
    replica = reader(tmp_path)
    with Writer(tmp_path) as successor:
        successor.do("assert store.bound == bound(1)")
        with replica.transaction() as view:
            assert view.bound == bound(1)
    replica.close()


def test_a_replica_swapped_without_a_word_is_found_within_the_look_interval(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store)")
    time = Time()
    replica = reader(tmp_path, time)
    writer.do("store._generation.close(clean=False); store._generation = None; filled(store, [nothing(1)])")
    for _ in range(2):
        with replica.transaction() as view:
            assert view.bound == bound(0)
    time.now += LOOK_EVERY
    with replica.transaction() as view:
        assert view.bound == bound(1)
    replica.close()


def test_a_replica_that_was_thrown_away_is_let_go(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.do("filled(store)")
    time = Time()
    replica = reader(tmp_path, time)
    (mark,) = tmp_path.glob("generation-*/mark")
    mark.write_text("trial")
    with Writer(tmp_path) as successor:
        successor.do("assert store.discarded; filled(store, [nothing(1)])")
        time.now += LOOK_EVERY
        with replica.transaction() as view:
            assert view.bound == bound(1)
    replica.close()


def test_refresh_finds_a_swapped_in_replica_without_any_request(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store)")
    replica = reader(tmp_path)
    writer.do(SWAP)
    replica.refresh()
    with replica.transaction() as view:
        assert view.bound == bound(9)
    replica.close()


def test_a_link_to_nothing_keeps_what_is_open(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store)")
    replica = reader(tmp_path)
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("generation-77")
    replica.refresh()
    with replica.transaction() as view:
        assert view.bound == bound(0)
    replica.close()


def test_a_reader_cannot_write(writer: Writer, tmp_path: Path) -> None:
    writer.do("filled(store)")
    replica = reader(tmp_path)
    with pytest.raises(ReplicaUnreadable), replica.transaction() as view:
        view._txn.put(b"x", b"y")
    replica.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplicaStore]:
    opened = filled(open_store(tmp_path))
    yield opened
    opened.close()


def test_a_record_that_cannot_be_read_is_a_fault_of_ours(store: ReplicaStore) -> None:
    store.apply([Entry(INCARNATION, 1, EntryKind.CONSENT, consent_key(1), b"\xc1")], bound(1))
    assert store.environment is not None
    with pytest.raises(BrokenReplica), view_of(store.environment) as view:
        view.consent(consent_key(1))


def test_a_going_live_that_ran_ahead_in_a_snapshot_counts_when_the_replica_has_come_as_far(store: ReplicaStore) -> None:
    """What ended before it is not all in the replica before that."""
    restored = RestoreRecord(50, 60, UnixTime(NOW - 60), UnixTime(NOW - 30))
    ahead = [
        entry(100, EntryKind.RECOVERY, b"0123456789abcdef", restored),
        entry(150, EntryKind.RECOVERY, LIVE_KEY, LiveRecord(NOW)),
    ]
    generation = store.begin_generation()
    loader = SnapshotLoader(generation, (MAC_KEY,))
    for sealed in snapshot_of(Position(INCARNATION, 149), ahead):
        loader.take(sealed)
    loader.finish()
    generation.seal(Bound(INCARNATION, 149, BOOT, BootTime(1234.5), NOW))
    store.adopt(generation)
    assert store.environment is not None
    with view_of(store.environment) as view:
        assert view.moment.recovery == Recovery(100, restored.gap_from, restored.gap_to)
        assert view.bound is not None
        assert view.bound.as_of == restored.gap_from
    store.apply([ahead[1]], Bound(INCARNATION, 150, BOOT, BootTime(1234.5), NOW))
    with view_of(store.environment) as view:
        assert view.moment.recovery is None


def test_the_callers_own_exceptions_pass_through(store: ReplicaStore) -> None:
    assert store.environment is not None
    with pytest.raises(KeyError), view_of(store.environment):
        raise KeyError("the caller's")


def test_a_revoked_token_is_found(store: ReplicaStore) -> None:
    store.apply([revocation_entry(1, b"r" * 16, NOW)], bound(1))
    assert store.environment is not None
    with view_of(store.environment) as view:
        assert view.token_revoked(b"r" * 16)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    "held", [bound(0), Bound(INCARNATION, 1 << 40, BOOT, BootTime(1234.5), NOW), Bound("", 0, "", BootTime(0.0), NOW)]
)
def test_a_bound_survives_its_fixed_form(held: Bound, moved: bool) -> None:
    assert unpack_bound(pack_bound(held, moved=moved)) == (held, moved)


def test_the_fixed_form_is_pinned() -> None:
    held = Bound(INCARNATION, 7, BOOT, BootTime(1.5), NOW)
    assert pack_bound(held) == (
        b"\0"
        + INCARNATION.encode()
        + b"\0" * 7
        + b"\x07"
        + BOOT.encode()
        + b"\x3f\xf8"
        + b"\0" * 6
        + b"\0\0\0\0\x6b\x49\xd2\x00"
    )


@pytest.mark.parametrize("raw", [b"", b"x", os.urandom(76), pack_bound(bound(0))[:17] + b"\xff" * 60])
def test_bytes_that_are_no_bound_are_a_fault(raw: bytes) -> None:
    with pytest.raises(BrokenReplica):
        unpack_bound(raw)


def test_a_bound_that_would_be_cut_is_refused() -> None:
    with pytest.raises(BrokenReplica):
        pack_bound(msgspec.structs.replace(bound(0), boot_id="x" * 37))


def test_every_lmdb_error_becomes_a_fault() -> None:
    for name in dir(lmdb):
        kind = getattr(lmdb, name)
        if isinstance(kind, type) and issubclass(kind, lmdb.Error):
            assert fault_of(kind("x")).text.startswith("the replica")
