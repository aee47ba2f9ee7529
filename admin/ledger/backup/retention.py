"""How long backups are kept, and what is removed. Pure.

Only whole series go: a segment is worth nothing without those before it. A series counts from its end, since it can
bring back any moment up to then. Whatever is doubtful stays: a series that cannot be read, one that is held, and the
newest with all that began after it. Removing what may go changes nothing about what else may go.
"""

import enum
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

DAY: Final = 86_400.0  # seconds
DAYS: Final = 35  # of all series; domain figure: daily backups for 35 days
MONTHS: Final = 12  # of the first series of each calendar month (UTC)


class Why(enum.Enum):
    """What speaks for keeping a series, or against it."""

    NEWEST = "newest"
    HELD = "held"
    UNREADABLE = "unreadable"
    DAILY = "daily"
    MONTHLY = "monthly"
    OVER = "over"  # its time is


class Aged(msgspec.Struct, frozen=True):
    """A series and its times, in seconds since 1970: of its full segment, and of its last one. None: unreadable."""

    name: str
    began: float | None
    ended: float | None
    held: bool = False


class Rule(msgspec.Struct, frozen=True):
    """How long. days: since a series ended. months: whole calendar months before the present one."""

    days: float = DAYS
    months: int = MONTHS


class Judged(msgspec.Struct, frozen=True):
    """A series, and why it stays or goes."""

    name: str
    why: Why

    @property
    def goes(self) -> bool:
        """Whether it is to be removed."""
        return self.why is Why.OVER


def judge(series: Iterable[Aged], newest: str, now: float, rule: Rule) -> list[Judged]:
    """Say of each series whether it stays, in the order of their names, which is that of their beginnings.

    newest: the series that a restore would take. now: seconds since 1970.
    """
    found = sorted(series, key=lambda one: one.name)
    first = _first_of_months(found)
    return [Judged(one.name, _why(one, newest, first, now, rule)) for one in found]


def _why(one: Aged, newest: str, first: Sequence[str], now: float, rule: Rule) -> Why:
    if one.name >= newest:
        return Why.NEWEST
    if one.held:
        return Why.HELD
    if one.began is None or one.ended is None:
        return Why.UNREADABLE
    if now - one.ended <= rule.days * DAY:
        return Why.DAILY
    if one.name in first and _month(now) - _month(one.began) <= rule.months:
        return Why.MONTHLY
    return Why.OVER


def _first_of_months(found: Sequence[Aged]) -> list[str]:
    seen: dict[int, str] = {}
    for one in found:
        if one.began is not None:
            seen.setdefault(_month(one.began), one.name)
    return list(seen.values())


def _month(at: float) -> int:
    """Counted from year 0, in UTC."""
    parts = time.gmtime(at)
    return 12 * parts.tm_year + parts.tm_mon - 1
