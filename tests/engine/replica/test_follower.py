"""What a follower does with entries and answers, whichever way and in whatever order they come."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from engine.clock import BootTime, UnixTime
from engine.consent.records import LIVE_KEY, LiveRecord
from engine.consent.states import State
from engine.decision.freshness import MAX_SILENCE, Bound
from engine.feed.entries import Entry, EntryKind, Position
from engine.feed.questions import Answer, Question
from engine.replica.environment import ReplicaFull
from engine.replica.follower import OVERDUE, Follower
from engine.replica.reader import view_of
from engine.replica.store import ReplicaStore
from tests.support.replicas import (
    BOOT,
    INCARNATION,
    NOW,
    OTHER_INCARNATION,
    consent,
    consent_entry,
    consent_key,
    entry,
    filled,
    nothing,
    open_store,
)

INSTANCE = "a" * 16


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.at = 50.0

    def now(self) -> UnixTime:
        return UnixTime(int(NOW + self.at))

    def boot(self) -> BootTime:
        return BootTime(self.at)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReplicaStore]:
    opened = filled(open_store(tmp_path))
    yield opened
    opened.close()


def follow(store: ReplicaStore, clock: Hands) -> Follower:
    counter = itertools.count(1)
    return Follower(
        store, node_id="node-1", instance=INSTANCE, boot_id=BOOT, clock=clock, draw=lambda: f"{next(counter):016x}"
    )


@pytest.fixture
def follower(store: ReplicaStore, clock: Hands) -> Follower:
    return follow(store, clock)


def answer(question: Question, seq: int, incarnation: str = INCARNATION) -> Answer:
    return Answer(question.instance, question.nonce, incarnation, seq)


def current_until(store: ReplicaStore) -> float:
    assert store.bound is not None
    return store.bound.fresh_until


def test_a_question_says_who_asks_and_what_is_applied(follower: Follower) -> None:
    follower.take_entries([nothing(1)])
    assert follower.ask() == Question("node-1", INSTANCE, "0000000000000001", INCARNATION, 1)


def test_an_answer_publishes_a_bound_from_when_it_was_asked(
    follower: Follower, store: ReplicaStore, clock: Hands
) -> None:
    question = follower.ask()
    clock.at += 0.7
    assert follower.take_answer(answer(question, 0))
    assert store.bound == Bound(INCARNATION, 0, BOOT, BootTime(50.0 + MAX_SILENCE), UnixTime(NOW + 50))
    assert follower.silence() == pytest.approx(0.7)


def test_an_answer_ahead_of_the_entries_counts_with_them_in_one_transaction(
    follower: Follower, store: ReplicaStore
) -> None:
    question = follower.ask()
    assert follower.take_answer(answer(question, 2))
    assert current_until(store) == 0.0
    follower.take_entries([nothing(1)])
    assert current_until(store) == 0.0
    follower.take_entries([consent_entry(2, 1, consent(State.REVOKED))])
    assert current_until(store) == 50.0 + MAX_SILENCE


def test_after_a_going_live_only_what_is_asked_after_it_counts(
    follower: Follower, store: ReplicaStore, clock: Hands
) -> None:
    first, second = follower.ask(), follower.ask()
    follower.take_answer(answer(first, 0))
    assert current_until(store) == 50.0 + MAX_SILENCE
    clock.at += 0.1
    follower.take_entries([entry(1, EntryKind.RECOVERY, LIVE_KEY, LiveRecord(NOW))])
    assert current_until(store) == clock.at  # over at once
    assert not follower.take_answer(answer(second, 1))  # asked before, though answered after
    assert follower.take_answer(answer(follower.ask(), 1))
    assert current_until(store) == clock.at + MAX_SILENCE


def test_missing_entries_become_overdue(follower: Follower, clock: Hands) -> None:
    follower.take_answer(answer(follower.ask(), 1))
    assert not follower.overdue()
    clock.at += OVERDUE + 0.01
    assert follower.overdue()
    follower.take_entries([nothing(1)])
    assert not follower.overdue()


def test_a_gap_is_rung_for_and_what_lies_before_it_is_applied(follower: Follower) -> None:
    follower.take_entries([nothing(1), nothing(3)])
    assert (follower.position.seq, follower.missing.rings) == (1, 1)
    follower.take_entries([nothing(1), nothing(2), nothing(3)])
    assert (follower.position.seq, follower.missing.rings) == (3, 1)


def test_announced_keys_are_rung_for(follower: Follower) -> None:
    follower.take_entries([nothing(1)])
    assert follower.keys_changed.rings == 0
    follower.take_entries([Entry(INCARNATION, 2, EntryKind.KEYS)])
    assert follower.keys_changed.rings == 1


@pytest.mark.parametrize("bringer", ["entry", "answer"])
def test_another_incarnation_ends_currency_until_it_is_settled(
    follower: Follower, store: ReplicaStore, clock: Hands, bringer: str
) -> None:
    follower.take_answer(answer(follower.ask(), 0))
    before = follower.ask()
    clock.at += 0.1
    if bringer == "entry":
        follower.take_entries([nothing(1, incarnation=OTHER_INCARNATION)])
    else:
        follower.take_answer(answer(before, 0, OTHER_INCARNATION))
    assert follower.in_doubt
    assert follower.doubted.rings == 1
    assert current_until(store) <= clock.at
    assert not follower.take_answer(answer(follower.ask(), 0))  # while in doubt nothing counts
    follower.trust()
    assert not follower.take_answer(answer(before, 0))  # nor does what was asked before the doubt
    assert follower.take_answer(answer(follower.ask(), 0))
    assert current_until(store) == clock.at + MAX_SILENCE


def test_an_answer_for_another_instance_casts_no_doubt(follower: Follower) -> None:
    assert not follower.take_answer(Answer("b" * 16, "1" * 16, OTHER_INCARNATION, 5))
    assert not follower.in_doubt


def test_a_disowned_replica_knows_nothing(follower: Follower, store: ReplicaStore) -> None:
    follower.take_answer(answer(follower.ask(), 0))
    follower.disown()
    assert store.bound == Bound(INCARNATION, 0, "", BootTime(0.0), UnixTime(0))


def test_a_full_replica_stands_still_without_dying_and_goes_on_with_room(
    follower: Follower, store: ReplicaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ReplicaFull("full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "apply", full)
        follower.take_entries([nothing(1)])
        assert follower.full
        assert follower.position == Position(INCARNATION, 0)
        assert follower.applied.rings == 0  # nothing is acknowledged that was not applied
    follower.take_entries([nothing(1)])
    assert not follower.full
    assert follower.position == Position(INCARNATION, 1)


def test_a_full_replica_earns_nothing_by_entries_it_could_not_take(
    follower: Follower, store: ReplicaStore, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer speaks of entry 1, which finds no room; then a bound alone finds some. It must not be believed."""
    apply = store.apply

    def room_for_a_bound_only(entries: Sequence[Entry], bound: Bound) -> None:
        if entries:
            raise ReplicaFull("full")
        apply(entries, bound)

    with monkeypatch.context() as patched:
        patched.setattr(store, "apply", room_for_a_bound_only)
        for _ in range(3):
            clock.at += 0.1
            follower.take_answer(answer(follower.ask(), 1))
            follower.take_entries([nothing(1)])
        assert follower.full
        assert store.bound is not None
        assert (store.bound.applied, store.bound.fresh_until) == (0, 0.0)
        assert follower.silence() == float("inf")
        asked_when = clock.at
    follower.take_entries([nothing(1)])
    assert not follower.full
    assert (store.bound.applied, store.bound.fresh_until) == (1, asked_when + MAX_SILENCE)


def test_before_the_first_snapshot_nothing_happens(tmp_path: Path, clock: Hands) -> None:
    empty = open_store(tmp_path)
    follower = follow(empty, clock)
    follower.take_entries([nothing(1)])
    follower.doubt(OTHER_INCARNATION)
    follower.disown()
    assert (follower.position, follower.in_doubt) == (Position("", 0), False)
    empty.close()


LEDGER = [consent_entry(seq, seq % 5, consent(version=seq)) for seq in range(1, 31)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 12), st.booleans()), min_size=1, max_size=25))
def test_whatever_is_delivered_the_replica_is_a_prefix_of_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[tuple[int, int, bool]]
) -> None:
    """Pieces come by two ways, overlapping, repeated, with gaps and holes: position and records always agree."""
    opened = filled(open_store(tmp_path_factory.mktemp("replica"), map_size=1 << 24))
    clock = Hands()
    follower = follow(opened, clock)
    for start, length, holed in deliveries:
        piece = LEDGER[start : start + length]
        follower.take_entries(piece[::2] if holed else piece)
        applied = follower.position.seq
        newest = {seq % 5: seq for seq in range(1, applied + 1)}
        assert opened.environment is not None
        with view_of(opened.environment) as view:
            found = {n: view.consent(consent_key(n)) for n in range(5)}
        assert {n: record.consent_version for n, record in found.items() if record is not None} == newest
    opened.close()
