"""A restored ledger goes on above every position that can have been told, however often and from whatever it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.ledger.backup.positions import HIGHEST, MARGIN, RATE, ClockBehind, PositionTooHigh, first_position
from engine.clock import UnixTime
from engine.replica.layout import stamp, stamped_at

AT = UnixTime(1_800_000_000)
seconds = st.floats(min_value=0.001, max_value=86_400.0, allow_nan=False)


def test_it_stands_above_what_the_old_ledger_can_have_given() -> None:
    assert first_position(AT, AT, AT + 60.0, (1_000,)) > RATE * (60 + MARGIN)


def test_it_stands_above_what_is_known_to_have_been_told() -> None:
    known = 10**14
    assert first_position(AT, AT, AT + 60.0, (1_000, known)) == known + 1


def test_it_is_the_same_from_whatever_backup() -> None:
    assert first_position(AT, AT, AT + 900.0, (5,)) == first_position(AT, UnixTime(AT + 800), AT + 900.0, (6_000,))


def test_a_clock_behind_the_backup_is_refused() -> None:
    with pytest.raises(ClockBehind):
        first_position(AT, UnixTime(AT + 60), AT + 59.5, (1_000,))


def test_a_position_that_replicas_have_no_room_for_is_refused() -> None:
    with pytest.raises(PositionTooHigh):
        first_position(AT, AT, AT + 1.0, (HIGHEST,))


def test_a_ledger_of_forty_years_may_still_be_restored_and_goes_on() -> None:
    first = first_position(AT, AT, AT + 40 * 365.25 * 86_400, (1,))
    assert first < HIGHEST <= 2**53  # and every reader of JSON keeps it exact (RFC 8259 section 6)
    assert stamped_at(stamp(first + HIGHEST - 2, b"")) == first + HIGHEST - 2


lives = st.tuples(seconds, st.floats(min_value=0, max_value=1), st.integers(min_value=0), seconds)


@settings(max_examples=500, deadline=None)
@given(st.lists(lives, min_size=1, max_size=8))
def test_no_position_is_given_twice_whatever_is_restored_when(steps: list[tuple[float, float, int, float]]) -> None:
    """Each step runs the newest ledger for a while, loses it, and restores from any backup ever made of any of them."""
    now, first = float(AT), 1
    kept = [(1, AT)]  # the last events of all backups: seq, recorded at
    told: list[int] = [1]
    for lasted, share, which, pause in steps:
        given_in_all = int((RATE - 1) * share * lasted)
        now += lasted
        told.append(first + given_in_all)
        kept.append((first + given_in_all, UnixTime(int(now) if given_in_all else kept[-1][1])))
        now += pause
        seq, recorded_at = kept[which % len(kept)]
        first = first_position(AT, recorded_at, now, (seq,))
        assert all(first > last for last in told)
        told.append(first)
        kept.append((first, UnixTime(int(now))))
