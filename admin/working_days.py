"""Working days of England and Wales: Monday to Friday without the bank holidays. Pure.

Bank holidays follow from rules that have stood since 1978 (Banking and Financial Dealings Act 1971, and proclamations
for New Year's Day, early May and substitute days), so that any later year can be computed. What was proclaimed for one
year alone follows from no rule: past ones stand in a table here, coming ones are named by an operator's setting.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

FIRST_YEAR: Final = 1978  # the first with today's eight days
_DAY: Final = timedelta(days=1)
_MONDAY: Final = 0
_SATURDAY: Final = 5

# Days that had another date in one year: by the rule, as it was, why.
_MOVED: Final[Mapping[date, tuple[date, str]]] = {
    date(2002, 5, 27): (date(2002, 6, 4), "Spring bank holiday, moved for the Golden Jubilee"),
    date(2012, 5, 28): (date(2012, 6, 4), "Spring bank holiday, moved for the Diamond Jubilee"),
    date(2020, 5, 4): (date(2020, 5, 8), "Early May bank holiday, moved to VE Day's 75th anniversary"),
    date(2022, 5, 30): (date(2022, 6, 2), "Spring bank holiday, moved for the Platinum Jubilee"),
}
# Days of one year alone, and why.
_ADDED: Final[Mapping[date, str]] = {
    date(2002, 6, 3): "Golden Jubilee of Elizabeth II",
    date(2011, 4, 29): "Wedding of Prince William and Catherine Middleton",
    date(2012, 6, 5): "Diamond Jubilee of Elizabeth II",
    date(2022, 6, 3): "Platinum Jubilee of Elizabeth II",
    date(2022, 9, 19): "State funeral of Elizabeth II",
    date(2023, 5, 8): "Coronation of Charles III",
}


class WorkingDays(msgspec.Struct, frozen=True):
    """The calendar. further: bank holidays that the tables here do not know."""

    further: frozenset[date] = frozenset()

    def is_working(self, day: date) -> bool:
        """Whether it is one."""
        return day.weekday() < _SATURDAY and day not in self.further and day not in bank_holidays(day.year)

    def not_before(self, day: date) -> date:
        """The day itself where it is one, else the next one."""
        while not self.is_working(day):
            day += _DAY
        return day

    def after(self, day: date, count: int) -> date:
        """The last of so many working days that follow on a day, which itself never counts. count: 1 or more."""
        for _ in range(count):
            day = self.not_before(day + _DAY)
        return day


@lru_cache(maxsize=64)
def bank_holidays(year: int) -> Mapping[date, str]:
    """The days of a year on which England and Wales have a bank holiday, with their names, in their order.

    A holiday at a weekend stands there by its substitute day alone, as in the government's own list. By today's rules;
    before 2002 without what was proclaimed for one year. Raises ValueError before FIRST_YEAR.
    """
    if year < FIRST_YEAR:
        raise ValueError(f"the rules of bank holidays are those since {FIRST_YEAR}")
    found = dict(_MOVED.get(day, (day, name)) for day, name in _by_rule(year).items())
    found |= {day: name for day, name in _ADDED.items() if day.year == year}
    return MappingProxyType(dict(sorted(found.items())))


def easter_sunday(year: int) -> date:
    """Easter of the Gregorian calendar, by the algorithm of Meeus, Jones and Butcher."""
    golden, (century, in_century) = year % 19, divmod(year, 100)
    (leaps, rest), (quarters, left) = divmod(century, 4), divmod(in_century, 4)
    moon = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - leaps - moon + 15) % 30
    weekday = (32 + 2 * rest + 2 * quarters - epact - left) % 7
    shift = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * shift + 114, 31)
    return date(year, month, day + 1)


def _by_rule(year: int) -> dict[date, str]:
    easter = easter_sunday(year)
    return {
        **_with_substitutes({date(year, 1, 1): "New Year's Day"}),
        easter - 2 * _DAY: "Good Friday",
        easter + _DAY: "Easter Monday",
        _monday_from(date(year, 5, 1)): "Early May bank holiday",
        _monday_from(date(year, 5, 25)): "Spring bank holiday",  # the last Monday of a month of 31 days
        _monday_from(date(year, 8, 25)): "Summer bank holiday",
        **_with_substitutes({date(year, 12, 25): "Christmas Day", date(year, 12, 26): "Boxing Day"}),
    }


def _monday_from(day: date) -> date:
    return day + (_MONDAY - day.weekday()) % 7 * _DAY


def _with_substitutes(days: Mapping[date, str]) -> dict[date, str]:
    """Those at a weekend are made up for by the next weekday that is none of them."""
    found = {day: name for day, name in days.items() if day.weekday() < _SATURDAY}
    for day, name in days.items():
        if day not in found:
            found[_free_weekday(day, found)] = f"{name} (substitute day)"
    return found


def _free_weekday(day: date, taken: Mapping[date, str]) -> date:
    while day.weekday() >= _SATURDAY or day in taken:
        day += _DAY
    return day
