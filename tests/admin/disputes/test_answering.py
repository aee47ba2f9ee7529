"""By when an ATP answers a dispute: in working days, at 17:00 of London, over weekends, Christmas and clock changes."""

from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.app import answer_term
from admin.config import Disputes, load_admin_config
from admin.disputes.answering import AnswerTerm
from admin.working_days import WorkingDays
from engine.clock import UnixTime, format_utc, parse_utc
from engine.config import BadConfig

LONDON = ZoneInfo("Europe/London")
CONFIG = Path(__file__).parents[3] / "configs/production.admin.toml"
MOMENTS = st.integers(
    int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2120, 1, 1, tzinfo=UTC).timestamp())
)
TERMS = st.builds(AnswerTerm, st.integers(1, 30))


def answered_by(raised: str, days: int = 10, *further: date) -> str:
    term = AnswerTerm(days, WorkingDays(frozenset(further)))
    return format_utc(term.respond_by(parse_utc(raised)))


@pytest.mark.parametrize(
    ("raised", "by"),
    [
        ("2026-12-18T10:00:00Z", "2027-01-06T17:00:00Z"),  # the requirements' own example: Christmas, Boxing, New Year
        ("2026-11-23T00:00:00Z", "2026-12-07T17:00:00Z"),  # a Monday, from its first second
        ("2026-11-23T17:00:00Z", "2026-12-07T17:00:00Z"),  # to the close of business
        ("2026-11-23T17:00:01Z", "2026-12-08T17:00:00Z"),  # and not a second longer
        ("2026-11-27T23:00:00Z", "2026-12-14T17:00:00Z"),  # a Friday night, the Saturday and the Sunday are Monday's
        ("2026-11-28T09:00:00Z", "2026-12-14T17:00:00Z"),
        ("2026-11-29T18:00:00Z", "2026-12-14T17:00:00Z"),
        ("2026-11-30T09:00:00Z", "2026-12-14T17:00:00Z"),
        ("2026-12-25T12:00:00Z", "2027-01-13T17:00:00Z"),  # on a bank holiday: the 29th's
    ],
)
def test_ten_working_days_at_the_close_of_business(raised: str, by: str) -> None:
    assert answered_by(raised) == by


@pytest.mark.parametrize(
    ("raised", "by"),
    [
        ("2027-03-19T16:59:59Z", "2027-04-06T16:00:00Z"),  # clocks go forward on 28 March, and Easter lies between
        ("2027-06-01T16:00:00Z", "2027-06-15T16:00:00Z"),  # 17:00 in summer is 16:00 UTC
        ("2027-06-01T16:00:01Z", "2027-06-16T16:00:00Z"),
        ("2026-10-19T15:00:00Z", "2026-11-02T17:00:00Z"),  # clocks go back on 25 October
        ("2026-10-23T16:30:00Z", "2026-11-09T17:00:00Z"),  # 17:30 in summer: after the close
        ("2026-10-26T16:30:00Z", "2026-11-09T17:00:00Z"),  # 16:30 in winter: before it
        ("2027-07-01T23:30:00Z", "2027-07-16T16:00:00Z"),  # half past midnight of the next day in London
    ],
)
def test_clock_time_is_london_s_before_and_after_a_change_of_clocks(raised: str, by: str) -> None:
    assert answered_by(raised) == by


def test_a_holiday_that_an_operator_names_gives_one_day_more() -> None:
    assert answered_by("2026-11-23T10:00:00Z", 10, date(2026, 11, 30)) == "2026-12-08T17:00:00Z"
    assert answered_by("2026-11-23T10:00:00Z", 10, date(2026, 11, 29)) == "2026-12-07T17:00:00Z"  # a Sunday


@given(TERMS, MOMENTS)
def test_the_last_moment_is_the_close_of_a_working_day(term: AnswerTerm, raised: int) -> None:
    by = datetime.fromtimestamp(term.respond_by(UnixTime(raised)), LONDON)
    assert by.time() == time(17)
    assert term.calendar.is_working(by.date())


@given(TERMS, MOMENTS)
def test_an_atp_has_that_many_whole_working_days(term: AnswerTerm, raised: int) -> None:
    """Counted back from the last one, they begin after the day on which the dispute was raised."""
    first = datetime.fromtimestamp(raised, LONDON).date()
    last = datetime.fromtimestamp(term.respond_by(UnixTime(raised)), LONDON).date()
    days = [date.fromordinal(number) for number in range(first.toordinal() + 1, last.toordinal() + 1)]
    assert sum(map(term.calendar.is_working, days)) in (term.working_days, term.working_days + 1)


@given(TERMS, MOMENTS, st.integers(0, 10 * 86_400))
def test_who_is_told_later_never_has_to_answer_sooner(term: AnswerTerm, raised: int, later: int) -> None:
    assert term.respond_by(UnixTime(raised)) <= term.respond_by(UnixTime(raised + later))


def test_the_settings_decide(tmp_path: Path) -> None:
    assert answer_term(load_admin_config(CONFIG).disputes) == AnswerTerm()
    file = tmp_path / "admin.toml"
    file.write_text(
        CONFIG.read_text() + "\n[disputes]\nanswer-working-days = 5\nfurther-bank-holidays = [2028-06-05, 2029-05-08]\n"
    )
    term = answer_term(load_admin_config(file).disputes)
    assert term == AnswerTerm(5, WorkingDays(frozenset({date(2028, 6, 5), date(2029, 5, 8)})))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("answer-working-days = 0", "answer-working-days"),
        ("answer-working-days = 101", "answer-working-days"),
        ('further-bank-holidays = ["8 May"]', "further-bank-holidays"),
        ("further-bank-holidays = [5]", "further-bank-holidays"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(tmp_path: Path, line: str, place: str) -> None:
    file = tmp_path / "admin.toml"
    file.write_text(f"{CONFIG.read_text()}\n[disputes]\n{line}\n")
    with pytest.raises(BadConfig, match=place):
        load_admin_config(file)


def test_ten_working_days_are_what_is_set_where_nobody_says_otherwise() -> None:
    """DISP-06: X = 10."""
    assert Disputes().answer_working_days == AnswerTerm().working_days == 10
