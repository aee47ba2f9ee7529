"""Twice as many introspections as a worker can answer: how many good answers come all the same.

The callers are as real ones: a request that finds no free connection is given up unsent after 0.25 s (a pool's waiting
limit), one that was sent is given up after 2 s, and then its connection is closed and opened anew. A good answer is a
200 with the right content within 1 s of when the request was due. The more connections, the more the server itself
has to turn away. What the worker can do is measured right before and right after each load, because the machine is not
the same a minute later; of several loads the median share counts. What was disturbed is tried again, a few times.

    .venv/bin/python -m bench.overload [--quick] [--json]

JSON: capacity_per_second, offered_per_second, goodput_share (the median of the runs with as many connections, the
least of these medians), good_p99_ms (most of all quoted runs; both only where enough runs were undisturbed, otherwise
`refused` says why), runs.
"""

import argparse
import json
from statistics import median, median_low

import msgspec

from bench.latency import Round, offer
from bench.openloop import Load, Offering, closed_loop, milliseconds
from bench.target import note, running

OVER = 2.0
CONNECTIONS = (256, 1_000, 4_000)
PATIENCE = 0.25
GOOD_WITHIN = 1.0
LAG_BOUND = 0.05  # seconds: a twentieth of what makes an answer good
TOKENS = 1_000
RUNS = 5  # with as many connections
FEWEST = 3  # of them undisturbed, or there is nothing to quote
SECONDS = 3.0  # of a load; the first quarter of a second fills the queues
CLOSED = 10_000  # introspections that tell what the worker can do: about 0.4 s
AT_ONCE = 256  # connections of the closed loop


class Run(msgspec.Struct, frozen=True):
    """One load, and what the worker could do around it: answers a second of its CPU time, before and after."""

    round: Round
    before: float
    after: float

    @property
    def can(self) -> float:
        """What it could do meanwhile, as far as can be told."""
        return (self.before + self.after) / 2

    @property
    def share(self) -> float:
        """Good answers a second, as a share of that."""
        return len(self.round.tally.good) / self.round.tally.elapsed / self.can

    def figures(self) -> dict[str, object]:
        """As they are kept."""
        return {
            "connections": self.round.load.connections,
            "capacity_per_second": round(self.can),
            "capacity_before_and_after": [round(self.before), round(self.after)],
            "goodput_share": round(self.share, 3),
            "refused": self.round.tally.refusal(LAG_BOUND),
            **self.round.figures(),
        }


def can_do(offering: Offering, connections: int, *, quick: bool) -> float:
    """Answers a second of the worker's CPU time, in a closed loop."""
    run = offer(offering, closed_loop(CLOSED // 10 if quick else CLOSED, min(connections, AT_ONCE)))
    assert not run.tally.failures(), run.figures()
    return run.tally.answered / run.tally.server.cpu


def overload(offering: Offering, connections: int, *, quick: bool) -> list[Run]:
    """Loads with as many connections, each between two looks at what the worker can do."""
    runs: list[Run] = []
    before = can_do(offering, connections, quick=quick)
    for _ in range(1 if quick else 2 * RUNS):
        rate = OVER * before
        note(f"{connections} connections: {rate:,.0f}/s")
        load = Load(
            rate=rate,
            count=round(rate * (1.0 if quick else SECONDS)),
            connections=connections,
            patience=PATIENCE,
            good_within=GOOD_WITHIN,
        )
        made = offer(offering, load)
        after = can_do(offering, connections, quick=quick)
        runs.append(Run(made, before, after))
        before = after
        if len(sound(runs)) == RUNS:
            break
    return runs


def sound(runs: list[Run]) -> list[Run]:
    """Those that nobody disturbed."""
    return [run for run in runs if not run.round.tally.refusal(LAG_BOUND)]


def measure(*, quick: bool) -> dict[str, object]:
    """A whole run."""
    with running({"good": TOKENS}) as target, Offering(target.door, target.endings["good"]) as offering:
        offer(offering, closed_loop(2 * TOKENS, AT_ONCE))  # each token has been seen
        numbers = CONNECTIONS[:2] if quick else CONNECTIONS
        by_connections = [overload(offering, connections, quick=quick) for connections in numbers]
    runs = [run.figures() for runs in by_connections for run in runs]
    return {"bench": "overload", **summary(by_connections, 1 if quick else FEWEST), "runs": runs}


def summary(by_connections: list[list[Run]], fewest: int) -> dict[str, object]:
    """The worst of the medians."""
    first = by_connections[0][0]
    told: dict[str, object] = {
        "capacity_per_second": round(first.can),
        "offered_per_second": round(first.round.load.rate),
    }
    quoted = [sound(runs) for runs in by_connections]
    if any(len(runs) < fewest for runs in quoted):
        refusals = [run.round.tally.refusal(LAG_BOUND) for runs in by_connections for run in runs]
        return {**told, "refused": "; ".join(filter(None, refusals))}
    told["goodput_share"] = round(min(median_low([run.share for run in runs]) for runs in quoted), 3)
    told["goodput_share_by_connections"] = {
        str(runs[0].round.load.connections): round(median([run.share for run in runs]), 3) for runs in quoted
    }
    p99s = [milliseconds(run.round.tally.good).get("p99") for runs in quoted for run in runs]
    return told | ({"good_p99_ms": max(p99 for p99 in p99s if p99 is not None)} if all(p99s) else {})


def readable(result: dict[str, object]) -> str:
    """A line for each number of connections."""
    lines = [line_of(each) for each in msgspec.convert(result["runs"], list[dict[str, object]])]
    return "\n".join([*lines, *([f"nothing to quote: {result['refused']}"] if "refused" in result else [])])


def line_of(run: dict[str, object]) -> str:
    """One number of connections."""
    return (
        f"{run['connections']} connections, {run['offered_per_second']}/s offered, {run['capacity_per_second']}/s "
        f"possible: goodput {run['goodput_share']} of that, {run['good_ms']} ms\n  answers {run['statuses']}, late "
        f"{run['late']}, timed out {run['timeouts']}, given up unsent {run['given_up']}, broken {run['broken']}\n"
        f"  worker busy {run['worker_busy']}, kept waiting {run['worker_waited']} of the time; lag {run['lag_ms']} ms"
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick)
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
