"""Words for time. Nothing here reads a clock: the time is always passed in.

Wall time is whole seconds since 1970-01-01 UTC, as JWTs carry it (RFC 7519 section 2). Boot time is
CLOCK_BOOTTIME: it goes on while a machine sleeps, so that a machine that slept wakes up stale.
"""

import re
from datetime import UTC, datetime
from typing import NewType, Protocol

UnixTime = NewType("UnixTime", int)
BootTime = NewType("BootTime", float)
Seconds = NewType("Seconds", float)

_UTC_TEXT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}Z")


class Clock(Protocol):
    """The machine's clocks, read in one place (`engine.telemetry.host`) and passed to everything else."""

    def now(self) -> UnixTime:
        """Wall time, whole seconds."""

    def boot(self) -> BootTime:
        """Seconds since this boot, sleep included."""


def parse_utc(text: str) -> UnixTime:
    """Read an RFC 3339 instant in UTC with `Z` and whole seconds, the only form on our wire.

    Raises ValueError for any other form and for dates that do not exist (2027-02-30).
    """
    if not _UTC_TEXT.fullmatch(text):
        raise ValueError("not an RFC 3339 UTC instant ending in Z")
    return UnixTime(int(datetime.fromisoformat(text).timestamp()))  # ten times as fast as strptime; the form is checked


def format_utc(at: UnixTime) -> str:
    """Write an instant as RFC 3339 UTC with `Z` and whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
