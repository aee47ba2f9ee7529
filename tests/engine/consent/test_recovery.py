"""Whether a ledger is recovering: the newest restore against the newest going live, in whatever order they come."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.records import LIVE_KEY, LiveRecord, RestoreRecord
from engine.consent.recovery import NO_PAST, Recovery, Stored, past_of


def restore(seq: int, incarnation: str, gap_from: int, gap_to: int) -> Stored:
    record = RestoreRecord(seq - 50, seq - 10, UnixTime(gap_from), UnixTime(gap_to))
    return seq, incarnation.encode(), msgspec.msgpack.encode(record)


def live(seq: int) -> Stored:
    return seq, LIVE_KEY, msgspec.msgpack.encode(LiveRecord(UnixTime(1)))


def test_a_ledger_that_was_never_restored_is_live() -> None:
    assert past_of([]).recovery() is None
    assert NO_PAST.newest() is None


def test_a_restored_ledger_recovers_until_it_goes_live() -> None:
    assert past_of([restore(100, "a", 10, 20)]).recovery() == Recovery(100, UnixTime(10), UnixTime(20))
    assert past_of([restore(100, "a", 10, 20), live(101)]).recovery() is None


def test_two_restores_make_one_recovery_that_reaches_back_to_the_first_gap() -> None:
    records = [restore(100, "a", 10, 20), restore(300, "b", 15, 40)]
    assert past_of(records).recovery() == Recovery(100, UnixTime(10), UnixTime(40))
    assert past_of([*records, live(301)]).recovery() is None


def test_a_going_live_that_a_replica_has_not_come_to_does_not_count_for_it() -> None:
    past = past_of([restore(100, "a", 10, 20), live(150)])
    assert past.recovery(149) == Recovery(100, UnixTime(10), UnixTime(20))
    assert past.recovery(150) is None


def test_a_going_live_before_a_restore_does_not_end_it() -> None:
    past = past_of([restore(100, "a", 10, 20), live(150), restore(300, "b", 15, 40)])
    assert past.recovery() == Recovery(300, UnixTime(15), UnixTime(40))
    newest = past.newest()
    assert newest is not None
    assert newest[0] == 300


@given(st.permutations([restore(100, "a", 10, 20), restore(300, "b", 15, 40), live(200)]))
def test_the_order_in_which_records_are_found_does_not_matter(records: list[Stored]) -> None:
    assert past_of(records).recovery() == Recovery(300, UnixTime(15), UnixTime(40))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=20))
def test_it_recovers_exactly_if_the_last_thing_that_happened_is_a_restore(history: list[tuple[bool, int]]) -> None:
    stored = {}
    for seq, (is_restore, at) in enumerate(history, 1):
        record = restore(seq, f"{seq}", at, at) if is_restore else live(seq)
        stored[record[1]] = record
    last_is_restore = bool(history) and history[-1][0]
    assert (past_of(stored.values()).recovery() is not None) == last_is_restore


@pytest.mark.parametrize("record", [(1, b"a", b"no record"), (1, b"\xff", msgspec.msgpack.encode((1, 2, 3, 4)))])
def test_an_unreadable_record_is_refused(record: Stored) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        past_of([record])
