"""What a flood's figures are made of: delays and their legs, by the times in which they began. Pure.

Of few samples a 95th percentile says little, and of one it is that one: the number of samples stands beside it, and
medians are compared as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

LEGS = ("call to commit", "commit to row", "row to signed", "signed to received", "received to noted")
TIMES = ("quiet", "busy", "paced", "after", "hostile")
SHARES = (50, 95)

Span = tuple[float, float]
Ends = Mapping[tuple[str, str], float]  # (receiver, consent) -> when it was received
Noted = Mapping[tuple[str, str], tuple[float | None, float | None]]  # when it was kept, and when its attempt had ended


class Call(msgspec.Struct):
    """One revocation of the trickle. Times: seconds since 1970; row: when its delivery's row was first seen."""

    edp: str
    consent: str
    seq: int
    begun: float
    committed: float
    answered: float
    row: float = 0.0


class Counts(msgspec.Struct, frozen=True):
    """received: how often each id came. told: ids of deliveries that are noted as taken."""

    received: Mapping[str, int]
    told: frozenset[str] | set[str]

    @property
    def lost(self) -> int:
        """Noted as taken, and never received."""
        return len(self.told - self.received.keys())


def at(found: Sequence[float], share: int) -> float | None:
    """A percentile; None: there are no samples."""
    return sorted(found)[int(len(found) * share / 100)] if found else None


def figures(called: Iterable[Call], ends: Ends, noted: Noted, since: float, until: float) -> dict[str, Any]:
    """Of those whose calls began then: milliseconds until their EDPs had them, and of the legs of that way.

    Whatever was not received is lost, and has no delay; whatever was not traced to its end has no legs.
    """
    asked = [one for one in called if since <= one.begun < until]
    there = [one for one in asked if (one.edp, one.consent) in ends]
    delays = [ends[one.edp, one.consent] - one.begun for one in there]
    ways = [way for one in there if (way := legs_of(one, ends[one.edp, one.consent], noted))]
    legs = {name: [way[place] for way in ways] for place, name in enumerate(LEGS)}
    return {
        "seconds": until - since,
        "revocations": len(asked),
        "samples": len(there),
        "traced": len(ways),
        "lost": len(asked) - len(there),
        **{f"p{share}_ms": milliseconds(at(delays, share)) for share in SHARES},
        "legs": {name: [milliseconds(at(found, share)) for share in SHARES] for name, found in legs.items()},
    }


def legs_of(one: Call, received: float, noted: Noted) -> list[float]:
    """Seconds of each leg; empty: it was not traced to its end."""
    signed, ended = noted.get((one.edp, one.consent), (None, None))
    if not one.row or signed is None or ended is None:
        return []
    row = min(one.row, signed)  # it was seen a moment after it was there
    points = (one.begun, one.committed, row, signed, received, ended)
    return [max(0.0, after - before) for before, after in pairwise(points)]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1_000


def ratio(this: float | None, other: float | None) -> float | None:
    """None: one of the two was not measured."""
    return this / other if this is not None and other else None


def seconds_to_all(stops: Mapping[tuple[str, str], float], edps: Iterable[str], atp: str, call: float) -> float | None:
    """How long after a call all EDPs had an ATP's suspension; None: one of them has not got it."""
    came = [stops.get((edp, atp)) for edp in edps]
    last = max((one for one in came if one is not None), default=call)
    return None if None in came else last - call


def assembled(
    found: Mapping[str, Any], times: Mapping[str, dict[str, Any]], stops: Sequence[float | None], counts: Counts
) -> dict[str, Any]:
    """All of it. stops: of the ATP that the command ended, and of the other one."""

    def by(name: str, other: str, share: int) -> float | None:
        return ratio(times[name][f"p{share}_ms"], times[other][f"p{share}_ms"])

    return {
        **found,
        "suspended_at_all_seconds": stops[0],
        "hostile_suspended_at_all_seconds": stops[1],
        "times": times,
        "p95_ratio": by("paced", "quiet", 95),
        "p50_ratio": by("paced", "quiet", 50),
        "p95_ratio_by_busy": by("paced", "busy", 95),
        "hostile_p95_ratio": by("hostile", "quiet", 95),
        "hostile_p50_ratio": by("hostile", "quiet", 50),
        "ended_per_second": found["paced"]["ended"] / found["paced"]["seconds"],
        "appended_per_second": found["hostile_consents"] / found["hostile"]["seconds"],
        "lost": counts.lost + sum(one["lost"] for one in times.values()),
        "told_but_not_received": counts.lost,
        "received_again": sum(count - 1 for count in counts.received.values()),
    }


def say(found: Mapping[str, Any]) -> None:
    """In lines."""
    paced, hostile, times = found["paced"], found["hostile"], found["times"]
    print(f"{paced['ended']:,} consents of one ATP ended by the command in {paced['seconds']:,.1f} s, "
          f"{found['ended_per_second']:,.0f} a second")  # fmt: skip
    print(f"  party-suspended at all EDPs   {shown(found['suspended_at_all_seconds'], 2, 8)} s after the call began")
    print(f"  {compared('p95', found['p95_ratio'], 'paced', times)}, by busy's {shown(found['p95_ratio_by_busy'], 2)}")
    print(f"  {compared('median', found['p50_ratio'], 'paced', times)}")
    print(f"{found['hostile_consents']:,} of another ended past it in {hostile['seconds']:,.1f} s, "
          f"{found['appended_per_second']:,.0f} a second")  # fmt: skip
    print("  party-suspended at all EDPs   "
          f"{shown(found['hostile_suspended_at_all_seconds'], 2, 8)} s after the call began"
          f"{'' if found['sequencer_passed'] else '   the sequencer is NOT YET past it'}")  # fmt: skip
    print(f"  {compared('p95', found['hostile_p95_ratio'], 'hostile', times)}")
    print(f"  {compared('median', found['hostile_p50_ratio'], 'hostile', times)}")
    print("another ATP's ends, milliseconds p50/p95")
    print(f"{'':<9}{'seconds':>8}{'ends':>6}{'lost':>5}{'traced':>7}{'whole way':>14}"
          + "".join(f"{leg:>20}" for leg in LEGS))  # fmt: skip
    for name in TIMES:
        one = times[name]
        legs = "".join(f"{shown(p50, 0, 13)}/{shown(p95, 0, 6)}" for p50, p95 in one["legs"].values())
        print(f"{name:<9}{one['seconds']:>8.1f}{one['revocations']:>6}{one['lost']:>5}{one['traced']:>7}"
              f"{shown(one['p50_ms'], 0, 7)}/{shown(one['p95_ms'], 0, 6)}{legs}")  # fmt: skip
    print("cores used" + "".join(f"{one:>14}" for one in found["cpu"]["quiet"]))
    for name in TIMES:
        print(f"{name:<10}" + "".join(f"{used:>14.2f}" for used in found["cpu"][name].values()))
    print(f"told, not received: {found['told_but_not_received']}; received again: {found['received_again']}")


def compared(what: str, by: float | None, name: str, times: Mapping[str, Any]) -> str:
    """One ratio, with the numbers of samples that it is made of."""
    samples = f"{times[name]['samples']} by {times['quiet']['samples']} samples"
    return f"{f'{what} by the quiet':<30}{shown(by, 2, 8)} of {samples}"


def shown(number: float | None, digits: int, width: int = 0) -> str:
    return f"{'–':>{width}}" if number is None else f"{number:>{width},.{digits}f}"
