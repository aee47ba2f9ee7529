"""How long an introspection takes at half of what a worker can do: open loop, Poisson arrivals, 1,000 tokens.

What the worker can do is measured first, by a closed loop in the same run. Latency counts from when a request was due.
Each round stands for itself; one whose generator lagged is thrown out, and the figures are of the median round of the
others. Where none is left, no latency is quoted. The same goes for rounds in which others used the worker's core.

    .venv/bin/python -m bench.latency [--quick] [--json] [--rate 5000]

JSON: capacity_per_second, capacity_measured_per_second, offered_per_second, p50_ms, p99_ms, p99_9_ms, max_ms,
failures, lag_p99_ms (latencies and lag only where they may be quoted, otherwise `refused` says why), rounds.
"""

import argparse
import json
from statistics import median_low

import msgspec

from bench.openloop import Load, Offering, Tally, closed_loop, milliseconds
from bench.target import note, running

CONNECTIONS = 64
TOKENS = 1_000
ROUNDS = 5
LAG_BOUND = 0.001  # seconds: a fifth of the p99 that is to be shown
MILLIONTHS = 1e6


class Round(msgspec.Struct, frozen=True):
    """One load and what came of it."""

    load: Load
    tally: Tally

    def figures(self) -> dict[str, object]:
        """With shares of the time: busy = the worker ran, waited = it could have run, but others had its core."""
        answered, worker = max(1, self.tally.answered), self.tally.server
        return {
            **self.tally.figures(self.load),
            "worker_us_each": round(worker.cpu / answered * MILLIONTHS, 1),
            "worker_busy": round(worker.cpu / self.tally.elapsed, 3),
            "worker_waited": round(worker.waited / self.tally.elapsed, 3),
            "generator_waited": round(self.tally.generator.waited / self.tally.elapsed, 3),
        }


def offer(offering: Offering, load: Load) -> Round:
    """One round."""
    return Round(load, offering.offer(load))


class Capacity(msgspec.Struct, frozen=True):
    """Answers a second. measured: in a closed loop, by the clock. of_core: by the worker's own CPU time.

    They differ where the generator was the limit, or others had the worker's core.
    """

    measured: float
    of_core: float


def capacity(offering: Offering, count: int, connections: int) -> Capacity:
    """Of a worker that has seen each token before; the best of two runs."""
    offer(offering, closed_loop(2 * TOKENS, connections))
    rounds = [offer(offering, closed_loop(count, connections)) for _ in range(2)]
    for each in rounds:
        assert not each.tally.failures(), each.figures()
    return Capacity(
        max(each.tally.answered / each.tally.elapsed for each in rounds),
        max(each.tally.answered / each.tally.server.cpu for each in rounds),
    )


def summary(rounds: list[Round]) -> dict[str, object]:
    """The median round, by its p99, of those that may be quoted; or why there is none."""
    sound = [each for each in rounds if not each.tally.refusal(LAG_BOUND)]
    if not sound:
        return {"refused": "; ".join(each.tally.refusal(LAG_BOUND) for each in rounds)}
    figures = [each.figures() for each in sound]
    middle = median_low([_latency(each)["p99"] for each in figures])
    chosen = next(each for each in figures if _latency(each)["p99"] == middle)
    latency = _latency(chosen)
    return {
        **{f"{name.replace('.', '_')}_ms": value for name, value in latency.items()},
        "failures": chosen["failures"],
        "lag_p99_ms": milliseconds(next(e for e in sound if e.figures() == chosen).tally.lags)["p99"],
        "rounds_quoted": len(sound),
    }


def _latency(figures: dict[str, object]) -> dict[str, float]:
    return msgspec.convert(figures["latency_ms"], dict[str, float])


def measure(*, quick: bool, rate: float | None) -> dict[str, object]:
    """A whole run."""
    with running({"good": TOKENS}) as target, Offering(target.door, target.endings["good"]) as offering:
        note("capacity, closed loop")
        found = capacity(offering, 5_000 if quick else 30_000, CONNECTIONS)
        offered = rate or found.of_core / 2
        rounds = []
        for number in range(2 if quick else ROUNDS):
            note(f"round {number + 1}: {offered:,.0f}/s")
            count = round(offered * (1.5 if quick else 5.0))
            load = Load(rate=offered, count=count, connections=CONNECTIONS, seed=number)
            rounds.append(offer(offering, load))
    return {
        "bench": "latency",
        "capacity_per_second": round(found.of_core),
        "capacity_measured_per_second": round(found.measured),
        "offered_per_second": round(offered),
        **summary(rounds),
        "rounds": [each.figures() for each in rounds],
    }


def readable(result: dict[str, object]) -> str:
    """A few lines."""
    lines = [
        f"capacity: {result['capacity_per_second']}/s of a core, {result['capacity_measured_per_second']}/s by clock",
        f"offered: {result['offered_per_second']}/s, Poisson",
    ]
    for each in msgspec.convert(result["rounds"], list[dict[str, object]]):
        lines.append(
            f"  {each['latency_ms']} ms, lag {each['lag_ms']} ms, {each['failures']} failures, worker busy "
            f"{each['worker_busy']}, kept waiting {each['worker_waited']} of the time, {each['worker_us_each']} µs each"
        )
    if "refused" in result:
        return "\n".join([*lines, f"nothing to quote: {result['refused']}"])
    told = {name: result[name] for name in ("p50_ms", "p99_ms", "p99_9_ms", "max_ms", "failures")}
    return "\n".join([*lines, f"median round: {told}"])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rate", type=float, help="a second, instead of half of the capacity")
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick, rate=arguments.rate)
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
