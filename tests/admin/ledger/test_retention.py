"""How long backups are kept: by property, and day by day over two years."""

import time
from calendar import timegm

from hypothesis import given
from hypothesis import strategies as st

from admin.ledger.backup.retention import DAY, Aged, Judged, Rule, Why, judge

NOON = timegm((2026, 11, 28, 12, 0, 0))
RULE = Rule()


def series(began: float, lasted: float = DAY, *, held: bool = False) -> Aged:
    """As a follower makes it: named by its beginning."""
    return Aged(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began)) + "-" + "0" * 16, began, began + lasted, held)


def kept(judged: list[Judged]) -> dict[str, Why]:
    return {one.name: one.why for one in judged if not one.goes}


def test_two_years_of_daily_series_leave_thirty_five_days_and_twelve_months() -> None:
    """A series a day, pruned each day as a job would: what is left, and why, on the last day."""
    there: list[Aged] = []
    for day in range(730, -1, -1):
        there.append(series(NOON - day * DAY))
        now = NOON - day * DAY + DAY
        left = kept(judge(there, there[-1].name, now, RULE))
        there = [one for one in there if one.name in left]
    last = judge(there, there[-1].name, NOON + DAY, RULE)
    assert [sum(one.why is why for one in last) for why in (Why.NEWEST, Why.DAILY, Why.MONTHLY, Why.OVER)] == [
        1, 35, 12, 0,
    ]  # fmt: skip
    months = [one.name[:8] for one in last if one.why is Why.MONTHLY]
    assert months[0] == "20251101"  # the first of each month, back to the same month a year ago
    assert months == sorted({name[:6] + "01" for name in months})


def test_a_series_counts_from_its_end() -> None:
    """One that went on for a month may be all there is of yesterday."""
    newest = series(NOON - 1)
    long = series(NOON - 60 * DAY, lasted=59 * DAY)
    assert judge([long, newest], newest.name, NOON, Rule(months=0))[0].why is Why.DAILY


def test_what_is_held_or_cannot_be_read_stays() -> None:
    newest = series(NOON - 1)
    old = Aged("20200101T000000Z-" + "0" * 16, None, None)
    held = series(NOON - 2_000 * DAY, held=True)
    assert [one.why for one in judge([newest, old, held], newest.name, NOON, RULE)] == [
        Why.UNREADABLE, Why.HELD, Why.NEWEST,
    ]  # fmt: skip


MOMENTS = st.integers(0, 900).map(lambda hours: float(NOON - hours * 20 * 3600))
MANY = st.lists(MOMENTS, min_size=1, max_size=40, unique=True).map(
    lambda moments: [series(at, lasted=(at % 7) * DAY) for at in moments]
)


@given(MANY, st.integers(0, 40), st.integers(0, 14))
def test_the_newest_stays_and_pruning_twice_is_pruning_once(many: list[Aged], days: int, months: int) -> None:
    rule = Rule(days, months)
    newest = max(one.name for one in many)
    once = kept(judge(many, newest, NOON, rule))
    assert once[newest] is Why.NEWEST
    assert all(one.name in once for one in many if one.ended is not None and one.ended >= NOON - days * DAY)
    left = [one for one in many if one.name in once]
    assert kept(judge(left, newest, NOON, rule)) == once


@given(MANY, MOMENTS)
def test_what_is_younger_than_the_newest_readable_one_stays(many: list[Aged], at: float) -> None:
    chosen = max(many, key=lambda one: one.name <= series(at).name)
    left = kept(judge(many, chosen.name, NOON + 10_000 * DAY, RULE))
    assert all(one.name in left for one in many if one.name >= chosen.name)
