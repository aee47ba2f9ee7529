"""London days, clock changes and windows (domain facts, section 4)."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.windows import (
    Window,
    cut_to_occupancy,
    half_hours,
    is_london_midnight,
    london_day,
    london_midnight,
    midnight_after,
    midnight_before,
    months_after,
    settlement_period,
)

DAYS = st.dates(date(2020, 1, 1), date(2040, 12, 31))
INSTANTS = st.integers(parse_utc("2020-01-01T00:00:00Z"), parse_utc("2040-01-01T00:00:00Z")).map(UnixTime)
SPRING = [date(2026, 3, 29), date(2027, 3, 28), date(2028, 3, 26), date(2029, 3, 25), date(2030, 3, 31)]
AUTUMN = [date(2026, 10, 25), date(2027, 10, 31), date(2028, 10, 29), date(2029, 10, 28), date(2030, 10, 27)]


def at(text: str) -> UnixTime:
    return parse_utc(text)


@pytest.mark.parametrize(("days", "count"), [(SPRING, 46), (AUTUMN, 50)])
def test_clock_change_days_have_46_or_50_half_hours(days: list[date], count: int) -> None:
    assert [half_hours(day) for day in days] == [count] * len(days)


@given(DAYS)
def test_every_day_has_46_48_or_50_half_hours_and_changes_come_twice_a_year(day: date) -> None:
    assert half_hours(day) in (46, 48, 50)
    first = date(day.year, 1, 1)
    year = [half_hours(first + timedelta(days=n)) for n in range((date(day.year + 1, 1, 1) - first).days)]
    assert (year.count(46), year.count(50)) == (1, 1)


def test_a_summer_midnight_is_23_utc_of_the_day_before() -> None:
    assert london_midnight(date(2026, 6, 20)) == at("2026-06-19T23:00:00Z")
    assert london_midnight(date(2026, 11, 22)) == at("2026-11-22T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "is_midnight"),
    [
        ("2026-06-19T23:00:00Z", True),
        ("2026-06-20T00:00:00Z", False),
        ("2026-11-22T00:00:00Z", True),
        ("2026-11-21T23:00:00Z", False),
        ("2026-03-29T00:00:00Z", True),  # the day on which the clocks go forward still begins in winter time
        ("2026-03-29T23:00:00Z", True),
        ("2026-10-24T23:00:00Z", True),  # the day on which they go back still begins in summer time
        ("2026-10-26T00:00:00Z", True),
    ],
)
def test_midnights_around_the_clock_changes(text: str, is_midnight: bool) -> None:
    assert is_london_midnight(at(text)) is is_midnight


@given(INSTANTS)
def test_an_instant_lies_between_its_midnights(moment: UnixTime) -> None:
    before, after = midnight_before(moment), midnight_after(moment)
    assert before <= moment < after
    assert is_london_midnight(before)
    assert is_london_midnight(after)
    assert after - before == half_hours(london_day(moment)) * 1800


@given(INSTANTS)
def test_settlement_periods_are_numbered_from_one_to_the_day_s_count(moment: UnixTime) -> None:
    day, number = settlement_period(moment)
    assert 1 <= number <= half_hours(day)
    start = london_midnight(day) + (number - 1) * 1800
    assert start <= moment < start + 1800


def test_the_hour_that_comes_twice_has_four_periods_of_its_own() -> None:
    numbers = [settlement_period(UnixTime(at("2026-10-25T00:00:00Z") + n * 1800))[1] for n in range(4)]
    assert numbers == [3, 4, 5, 6]  # 01:00 and 01:30 in summer time, then both again in winter time


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2026-11-22T09:30:00Z", 12, "2027-11-22T09:30:00Z"),
        ("2028-02-29T00:00:00Z", 12, "2029-02-28T00:00:00Z"),
        ("2026-01-31T00:00:00Z", 1, "2026-02-28T00:00:00Z"),
        ("2026-12-31T00:00:00Z", 2, "2027-02-28T00:00:00Z"),
        ("2026-11-30T12:00:00Z", 1, "2026-12-30T12:00:00Z"),
        ("2026-01-15T00:00:00Z", -13, "2024-12-15T00:00:00Z"),
        ("2026-05-31T00:00:00Z", 6, "2026-11-30T00:00:00Z"),
    ],
)
def test_months_are_calendar_months(start: str, months: int, end: str) -> None:
    assert format_utc(months_after(at(start), months)) == end


@pytest.mark.parametrize(("start", "end"), [(10, 10), (10, 9)])
def test_an_empty_window_cannot_be_made(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="ends after it starts"):
        Window(UnixTime(start), UnixTime(end))


def test_the_window_begins_with_the_day_of_moving_in() -> None:
    asked = Window(at("2025-11-22T00:00:00Z"), None)
    cut = cut_to_occupancy(asked, at("2026-06-20T14:00:00Z"), None)
    assert cut == Window(at("2026-06-19T23:00:00Z"), None)


def test_the_window_ends_before_the_day_of_moving_out() -> None:
    asked = Window(at("2025-11-22T00:00:00Z"), at("2026-11-22T00:00:00Z"))
    cut = cut_to_occupancy(asked, None, at("2026-06-20T14:00:00Z"))
    assert cut == Window(at("2025-11-22T00:00:00Z"), at("2026-06-19T23:00:00Z"))


def test_an_open_window_gets_an_end_by_moving_out() -> None:
    cut = cut_to_occupancy(Window(at("2025-11-22T00:00:00Z"), None), None, at("2026-11-21T00:00:00Z"))
    assert cut is not None
    assert cut.end == at("2026-11-21T00:00:00Z")


@pytest.mark.parametrize(
    ("moved_in", "moved_out"),
    [("2026-11-22T00:00:00Z", None), (None, "2025-11-22T12:00:00Z"), ("2026-01-01T09:00:00Z", "2026-01-01T18:00:00Z")],
)
def test_a_window_outside_the_occupancy_leaves_nothing(moved_in: str | None, moved_out: str | None) -> None:
    asked = Window(at("2025-11-22T00:00:00Z"), at("2026-11-22T00:00:00Z"))
    times = [None if text is None else at(text) for text in (moved_in, moved_out)]
    assert cut_to_occupancy(asked, *times) is None


@given(INSTANTS, INSTANTS, st.none() | INSTANTS, st.none() | INSTANTS, st.booleans())
def test_cutting_never_widens_and_cutting_again_changes_nothing(
    one: UnixTime, other: UnixTime, moved_in: UnixTime | None, moved_out: UnixTime | None, is_open: bool
) -> None:
    window = Window(min(one, other), None if is_open else UnixTime(max(one, other) + 1))
    cut = cut_to_occupancy(window, moved_in, moved_out)
    if cut is None:
        return
    assert cut.start >= window.start
    assert window.end is None or (cut.end is not None and cut.end <= window.end)
    assert moved_out is None or (cut.end is not None and cut.end <= moved_out)
    assert cut_to_occupancy(cut, moved_in, moved_out) == cut
