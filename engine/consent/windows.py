"""Data windows: half-open UTC instants [start, end) whose edges are midnights of London.

A London day has 48 half hours, 46 when the clocks go forward and 50 when they go back; nothing here counts days
as 86,400 seconds. The zone's rules come from the time zone database, which is read once, at import.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from engine.clock import UnixTime

LONDON: Final = ZoneInfo("Europe/London")
HALF_HOUR: Final = 1800  # seconds; the settlement period


class Window(msgspec.Struct, frozen=True):
    """Half-open [start, end); end None = open until the consent ends. No code may make one that is empty."""

    start: UnixTime
    end: UnixTime | None

    def __post_init__(self) -> None:
        """Raises ValueError for an empty window."""
        if self.end is not None and self.end <= self.start:
            raise ValueError("a window ends after it starts")


def london_midnight(day: date) -> UnixTime:
    """The instant at which a London day begins. The clocks never change at midnight, so there is exactly one."""
    return UnixTime(int(datetime.combine(day, time.min, LONDON).timestamp()))


def london_day(at: UnixTime) -> date:
    """The London calendar day that holds an instant."""
    return datetime.fromtimestamp(at, LONDON).date()


def is_london_midnight(at: UnixTime) -> bool:
    """Whether a London day begins at this very instant."""
    return london_midnight(london_day(at)) == at


def midnight_before(at: UnixTime) -> UnixTime:
    """The newest London midnight that is not after the instant."""
    return london_midnight(london_day(at))


def midnight_after(at: UnixTime) -> UnixTime:
    """The first London midnight that is after the instant."""
    return london_midnight(london_day(at) + timedelta(days=1))


def half_hours(day: date) -> int:
    """How many settlement periods a London day has: 46, 48 or 50."""
    return (london_midnight(day + timedelta(days=1)) - london_midnight(day)) // HALF_HOUR


def settlement_period(at: UnixTime) -> tuple[date, int]:
    """The settlement day and the number, from 1, of the half hour that holds an instant."""
    day = london_day(at)
    return day, (at - london_midnight(day)) // HALF_HOUR + 1


def months_after(at: UnixTime, months: int) -> UnixTime:
    """The same clock time so many calendar months later, in UTC; past a month's end it is that month's last day."""
    moment = datetime.fromtimestamp(at, UTC)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    following = date(year + (month == 11), (month + 1) % 12 + 1, 1)
    day = min(moment.day, (following - timedelta(days=1)).day)
    return UnixTime(int(moment.replace(year=year, month=month + 1, day=day).timestamp()))


def cut_to_occupancy(window: Window, moved_in: UnixTime | None, moved_out: UnixTime | None) -> Window | None:
    """What is left of a window inside an occupancy (CMS-07); None = nothing.

    The day of moving in counts whole, from its London midnight; the day of moving out not at all: that evening may
    be somebody else's. None = not known to have moved in late, or still there.
    """
    start = window.start if moved_in is None else max(window.start, midnight_before(moved_in))
    ends = [end for end in (window.end, None if moved_out is None else midnight_before(moved_out)) if end is not None]
    end = min(ends, default=None)
    if end is not None and end <= start:
        return None
    return Window(UnixTime(start), end)
