"""The calendar of England and Wales: the days that were and will be, and what must hold for any."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.working_days import FIRST_YEAR, WorkingDays, bank_holidays, easter_sunday

DAY = timedelta(days=1)
# As the government's own list has them (gov.uk/bank-holidays), substitute days included.
KNOWN = {
    2020: "01-01 04-10 04-13 05-08 05-25 08-31 12-25 12-28",
    2021: "01-01 04-02 04-05 05-03 05-31 08-30 12-27 12-28",
    2022: "01-03 04-15 04-18 05-02 06-02 06-03 08-29 09-19 12-26 12-27",
    2023: "01-02 04-07 04-10 05-01 05-08 05-29 08-28 12-25 12-26",
    2024: "01-01 03-29 04-01 05-06 05-27 08-26 12-25 12-26",
    2025: "01-01 04-18 04-21 05-05 05-26 08-25 12-25 12-26",
    2026: "01-01 04-03 04-06 05-04 05-25 08-31 12-25 12-28",
    2027: "01-01 03-26 03-29 05-03 05-31 08-30 12-27 12-28",
    2028: "01-03 04-14 04-17 05-01 05-29 08-28 12-25 12-26",
}
YEARS = st.integers(FIRST_YEAR, 2400)
DATES = st.dates(date(FIRST_YEAR, 1, 1), date(2400, 1, 1))
CALENDARS = st.builds(WorkingDays, st.frozensets(DATES, max_size=20))


@pytest.mark.parametrize("year", KNOWN)
def test_the_days_are_those_of_the_government_s_list(year: int) -> None:
    assert [f"{day:%m-%d}" for day in bank_holidays(year)] == KNOWN[year].split()


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (date(2020, 5, 8), "Early May bank holiday, moved to VE Day's 75th anniversary"),
        (date(2022, 6, 2), "Spring bank holiday, moved for the Platinum Jubilee"),
        (date(2022, 6, 3), "Platinum Jubilee of Elizabeth II"),
        (date(2022, 9, 19), "State funeral of Elizabeth II"),
        (date(2023, 5, 8), "Coronation of Charles III"),
        (date(2022, 12, 26), "Boxing Day"),
        (date(2022, 12, 27), "Christmas Day (substitute day)"),
        (date(2027, 12, 28), "Boxing Day (substitute day)"),
        (date(2028, 1, 3), "New Year's Day (substitute day)"),
    ],
)
def test_each_day_says_what_it_is(day: date, name: str) -> None:
    assert bank_holidays(day.year)[day] == name


@pytest.mark.parametrize("day", [date(2020, 5, 4), date(2022, 5, 30)])
def test_a_day_that_was_moved_was_a_working_day(day: date) -> None:
    assert WorkingDays().is_working(day)


def test_easter_is_known_for_its_edges() -> None:
    """Earliest, latest, and the two exceptions that simpler rules get wrong."""
    known = [date(1818, 3, 22), date(2038, 4, 25), date(1954, 4, 18), date(1981, 4, 19), date(2285, 3, 22)]
    assert [easter_sunday(day.year) for day in known] == known


def test_years_before_today_s_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="since 1978"):
        bank_holidays(FIRST_YEAR - 1)


@given(YEARS)
def test_every_year_has_its_eight_days_on_weekdays(year: int) -> None:
    days = list(bank_holidays(year))
    assert len(days) >= 8
    assert len(days) == 8 or year < 2024
    assert days == sorted(days)
    assert all(day.weekday() < 5 and day.year == year for day in days)
    assert easter_sunday(year).weekday() == 6


@given(CALENDARS, DATES)
def test_a_working_day_is_a_weekday_without_a_holiday(calendar: WorkingDays, day: date) -> None:
    off = day.weekday() >= 5 or day in bank_holidays(day.year) or day in calendar.further
    assert calendar.is_working(day) != off


@given(DATES)
def test_a_day_that_an_operator_names_is_none(day: date) -> None:
    assert not WorkingDays(frozenset({day})).is_working(day)


@given(CALENDARS, DATES, st.integers(1, 30))
def test_so_many_working_days_lie_behind_the_first_and_up_to_the_last(
    calendar: WorkingDays, day: date, count: int
) -> None:
    last = calendar.after(day, count)
    between = [day + number * DAY for number in range(1, (last - day).days + 1)]
    assert sum(map(calendar.is_working, between)) == count
    assert calendar.is_working(last)


@given(CALENDARS, DATES)
def test_the_next_working_day_is_the_first_that_is_one(calendar: WorkingDays, day: date) -> None:
    found = calendar.not_before(day)
    assert calendar.is_working(found)
    assert not any(calendar.is_working(day + number * DAY) for number in range((found - day).days))
    assert (found == day) == calendar.is_working(day)
