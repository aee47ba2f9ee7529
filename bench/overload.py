"""Twice as many introspections as a worker can answer: how many good answers come all the same.

The callers are as real ones: a request that finds no free connection is given up unsent after 0.25 s (a pool's waiting
limit), one that was sent is given up after 2 s, and then its connection is closed and opened anew. A good answer is a
200 with the right content within 1 s of when the request was due. The more connections, the more the server itself
has to turn away. What was disturbed is tried again, a few times.

    .venv/bin/python -m bench.overload [--quick] [--json]

JSON: capacity_per_second, offered_per_second, goodput_share (least of all runs), good_p99_ms (most of all runs; both
only where no run was disturbed, otherwise `refused` says why), runs.
"""

import argparse
import json

import msgspec

from bench.latency import Round, capacity, offer
from bench.openloop import Load, Offering
from bench.target import note, running

OVER = 2.0
CONNECTIONS = (256, 1_000, 4_000)
PATIENCE = 0.25
GOOD_WITHIN = 1.0
LAG_BOUND = 0.05  # seconds: a twentieth of what makes an answer good
TOKENS = 1_000
MORE_ATTEMPTS = 2


def share_of(run: Round, can: float) -> float:
    """Good answers a second, as a share of what the worker can do."""
    return len(run.tally.good) / run.tally.elapsed / can


def overload(offering: Offering, connections: int, *, quick: bool) -> tuple[Round, float]:
    """Find what the worker can do a second, and offer more."""
    note(f"{connections} connections: capacity, closed loop")
    can = capacity(offering, 5_000 if quick else 30_000, min(connections, 256)).of_core
    rate = OVER * can
    note(f"{connections} connections: {rate:,.0f}/s")
    load = Load(
        rate=rate,
        count=round(rate * (1.5 if quick else 6.0)),
        connections=connections,
        patience=PATIENCE,
        good_within=GOOD_WITHIN,
    )
    return offer(offering, load), can


def measure(*, quick: bool) -> dict[str, object]:
    """A whole run."""
    results, refusals = [], []
    with running({"good": TOKENS}) as target, Offering(target.door, target.endings["good"]) as offering:
        for connections in CONNECTIONS[:2] if quick else CONNECTIONS:
            run, can = overload(offering, connections, quick=quick)
            for _ in range(0 if quick else MORE_ATTEMPTS):
                if not run.tally.refusal(LAG_BOUND):
                    break
                note("that was disturbed")
                run, can = overload(offering, connections, quick=quick)
            refusal = run.tally.refusal(LAG_BOUND)
            refusals += [refusal] if refusal else []
            results.append(
                {
                    "connections": connections,
                    "capacity_per_second": round(can),
                    "goodput_share": round(share_of(run, can), 3),
                    "refused": refusal,
                    **run.figures(),
                }
            )
    return {"bench": "overload", **summary(results, refusals), "runs": results}


def summary(results: list[dict[str, object]], refusals: list[str]) -> dict[str, object]:
    """The worst of the runs."""
    told: dict[str, object] = {
        "capacity_per_second": results[0]["capacity_per_second"],
        "offered_per_second": results[0]["offered_per_second"],
    }
    if refusals:
        return {**told, "refused": "; ".join(refusals)}
    told["goodput_share"] = min(msgspec.convert(each["goodput_share"], float) for each in results)
    p99s = [msgspec.convert(each["good_ms"], dict[str, float]).get("p99") for each in results]
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
