"""What it costs a worker that there is another one: processor time an introspection, two workers by one.

Both at the same load for each worker, in an open loop, because two workers and a generator cannot all be busy on two
cores. Two workers have a core each, and the generator shares the second one with the second worker. So that the second
core's neighbour is not counted as the price of a second worker, the single worker is measured on either core, and the
mean of both is what two workers are held against. Rounds are interleaved, and each gives a ratio of its own.

    .venv/bin/python -m bench.scaling [--quick] [--json] [--rate 4000]

JSON: rate_per_worker, ratio (median of the rounds), ratios, and the microseconds an introspection of each placement.
"""

import argparse
import contextlib
import json
import os
from statistics import median

import msgspec

from bench.openloop import Load, Offering, Tally, closed_loop
from bench.target import Target, note, running

TOKENS = 1_000
CONNECTIONS = 32  # for each worker
RATE = 4_000.0  # for each worker: a fifth of what one can do, so that all three together leave the cores some room
ROUNDS = 9
SECONDS = 3.0
MILLIONTHS = 1e6


class Side(msgspec.Struct, frozen=True):
    """A running node and who asks it."""

    target: Target
    offering: Offering
    workers: int

    def cost(self, rate: float, seconds: float, seed: int) -> float:
        """Microseconds of the workers for each introspection, at `rate` a second for each of them."""
        offered = rate * self.workers
        load = Load(
            rate=offered,
            count=round(offered * seconds),
            connections=CONNECTIONS * self.workers,
            seed=seed,
            spin=False,
        )
        tally = self.offering.offer(load)
        assert not tally.failures(), tally.figures(load)
        return used_by_each(tally)

    def warm(self) -> None:
        """Let each worker see each token."""
        self.offering.offer(closed_loop(6 * TOKENS * self.workers, CONNECTIONS * self.workers))


def used_by_each(tally: Tally) -> float:
    """Microseconds an answer."""
    return tally.server.cpu / tally.answered * MILLIONTHS


def cores() -> tuple[int, int]:
    """The first two; the same one twice where there is no other."""
    found = sorted(os.sched_getaffinity(0))
    return found[0], found[1 % len(found)]


def place(pid: int, core: int) -> None:
    """Keep a process on a core."""
    os.sched_setaffinity(pid, {core})


def measure(*, quick: bool, rate: float) -> dict[str, object]:
    """A whole run."""
    first, second = cores()
    seconds = 0.5 if quick else SECONDS
    rounds: list[tuple[float, float, float]] = []
    with contextlib.ExitStack() as ends:
        one, two = (begun(ends, workers) for workers in (1, 2))
        place(two.target.door.server, first)
        (other,) = two.target.door.others
        place(other, second)
        for number in range(2 if quick else ROUNDS):
            place(one.target.door.server, first)
            beside_nobody = one.cost(rate, seconds, number)
            both = two.cost(rate, seconds, number)
            place(one.target.door.server, second)
            beside_the_generator = one.cost(rate, seconds, number)
            rounds.append((beside_nobody, beside_the_generator, both))
            note(f"{beside_nobody:.1f} and {beside_the_generator:.1f} µs alone, {both:.1f} µs with another")
    return {"bench": "scaling", "rate_per_worker": rate, **summary(rounds)}


def begun(ends: contextlib.ExitStack, workers: int) -> Side:
    """A warm node."""
    target = ends.enter_context(running({"good": TOKENS}, workers=workers))
    side = Side(target, ends.enter_context(Offering(target.door, target.endings["good"])), workers)
    side.warm()
    return side


def summary(rounds: list[tuple[float, float, float]]) -> dict[str, object]:
    """rounds: alone on the first core, alone beside the generator, two workers; in microseconds."""
    ratios = [2 * both / (nobody + generator) for nobody, generator, both in rounds]
    names = ("one_on_its_own_core_us", "one_beside_the_generator_us", "two_us")
    return {
        "ratio": round(median(ratios), 3),
        "ratios": [round(each, 3) for each in ratios],
        **{name: round(median(column), 1) for name, column in zip(names, zip(*rounds, strict=True), strict=True)},
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rate", type=float, default=RATE, help="introspections a second for each worker")
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick, rate=arguments.rate)
    print(
        f"{result['rate_per_worker']:,.0f}/s for each worker: {result['one_on_its_own_core_us']} µs alone, "
        f"{result['one_beside_the_generator_us']} µs alone beside the generator, {result['two_us']} µs with another "
        f"worker: {result['ratio']} x"
    )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
