"""How pushing stands, as a table: who pushes, what waits in each lane, receivers and streams by state."""

from collections.abc import Mapping
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

# Seconds after which the service alarms (`receiver_watch.Lateness`); said again, so that no command loads its database.
LATE: Final = 600
TOO_LATE: Final = 3_600
_FINE: Final = frozenset({"well", "enabled"})
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def pushing_table(found: Mapping[str, Any]) -> Table:
    """found: the answer of `GET /pushing`."""
    lease = found["lease"]
    table = Table("pusher", "[red]nobody pushes[/]" if lease is None else _holder(lease))
    for lane in found["lanes"]:
        table.add_row(lane["lane"], _waiting(lane["unsent"], lane["oldest_seconds"]))
    table.add_row("parked", _parked(found["parked"], found["receivers_with_parked"]))
    table.add_row("not signed", f"{found['unsigned']:,}")
    table.add_row("receivers", _by_state(found["receivers"]))
    if without := found["receivers_without_fallback"]:
        table.add_row("no fallback", f"[red]{_counted(without, 'receiver')}[/]")
    table.add_row("streams", _by_state(found["streams"]))
    return table


def unknown_pushing_table(why: str) -> Table:
    """In its place, where the service did not tell. why: a sentence."""
    table = Table("pusher", "[red]not known[/]")
    table.add_row("why", escape(why))
    return table


def age(seconds: int) -> str:
    """In the largest unit that it fills, cut: `45 s`, `12 min`, `3 h`, `2 d`."""
    return next((f"{seconds // size} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds} s")


def _holder(lease: Mapping[str, Any]) -> str:
    return f"[green]{escape(lease.get('pusher') or 'an older one')}[/] since {lease['since']}"


def _waiting(unsent: int, oldest: int) -> str:
    if not unsent:
        return "0"
    colour = "red" if oldest > TOO_LATE else "yellow" if oldest > LATE else "default"
    return f"{unsent:,} not pushed, [{colour}]oldest {age(oldest)}[/]"


def _parked(deliveries: int, receivers: int) -> str:
    if not deliveries:
        return "0"
    return f"[red]{_counted(deliveries, 'event')}[/] of {_counted(receivers, 'receiver')}"


def _by_state(counts: Mapping[str, int]) -> str:
    """All, and how many of them are in each state that any is in."""
    parts = [
        f"[{'green' if state in _FINE else 'yellow'}]{number:,} {state.replace('_', ' ')}[/]"
        for state, number in counts.items()
        if number
    ]
    return " · ".join([f"{sum(counts.values()):,}", *parts]) if parts else "none"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
