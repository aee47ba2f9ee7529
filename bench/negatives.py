"""Whether the time of a refusal tells which refusal it was: expired, revoked, for another EDP, of an unknown consent.

All tokens are signed by the issuer. One connection asks about the kinds in random order, one request at a time. Two
samples are compared by the share of pairs in which the first took longer (the area under the ROC curve; Mann and
Whitney's U over the number of pairs): 0.5 = nothing to tell them by, 1.0 or 0.0 = one request tells. The control
compares a kind with itself.

    .venv/bin/python -m bench.negatives [--quick] [--json] [--count 10000]

JSON: repeated and first_sight, each with median_us (by kind), auc (by pair), control_auc (by kind), widest (the largest
distance of an auc from 0.5), control_widest. repeated: tokens the worker has seen before; first_sight: each once.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from statistics import median

from bench.openloop import CONNECT_TIMEOUT, Connection
from bench.target import BEFORE_ID, Door, note, running

REFUSED = ("expired", "revoked", "foreign", "unknown")
INACTIVE = b'{"active":false}'
SEED = 1
Samples = dict[str, list[float]]


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, in the order of the values given; equal values share the middle of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    rank = 1
    for _, group in itertools.groupby(order, key=values.__getitem__):
        tied = list(group)
        for index in tied:
            found[index] = rank + (len(tied) - 1) / 2
        rank += len(tied)
    return found


def auc(first: Sequence[float], second: Sequence[float]) -> float:
    """Share of pairs in which the first is greater, ties counting half."""
    summed = sum(ranks([*first, *second])[: len(first)])
    return (summed - len(first) * (len(first) + 1) / 2) / (len(first) * len(second))


def judged(samples: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Medians, every pair of kinds, and each kind against itself (odd against even)."""
    pairs = {f"{a}/{b}": round(auc(samples[a], samples[b]), 4) for a, b in itertools.combinations(samples, 2)}
    control = {kind: round(auc(taken[::2], taken[1::2]), 4) for kind, taken in samples.items()}
    return {
        "median_us": {kind: round(median(taken) * 1e6, 2) for kind, taken in samples.items()},
        "auc": pairs,
        "control_auc": control,
        "widest": round(max(abs(value - 0.5) for value in pairs.values()), 4),
        "control_widest": round(max(abs(value - 0.5) for value in control.values()), 4),
    }


class Asker:
    """One connection, one request at a time, in the blocking way."""

    def __init__(self, door: Door) -> None:
        self._connection = Connection(door, door.context())
        self._connection.socket.settimeout(CONNECT_TIMEOUT)
        self._connection.shake()
        self._asked = 0

    def ask(self, ending: bytes) -> float:
        """Seconds from sending to the whole answer, which must be the refusal and nothing else."""
        self._asked += 1
        request = b"%b%032x%b" % (BEFORE_ID, self._asked, ending)
        began = time.perf_counter()
        self._connection.socket.sendall(request)
        answer = self._connection.receive()
        while answer is None:
            answer = self._connection.receive()
        taken = time.perf_counter() - began
        assert answer.endswith(INACTIVE), answer[:500]
        return taken

    def close(self) -> None:
        """End it."""
        self._connection.socket.close()


def sample(door: Door, endings: Mapping[str, Sequence[bytes]], count: int) -> Samples:
    """Ask about each kind so often, all kinds in turns whose order is drawn anew each time."""
    draw = random.Random(SEED)  # noqa: S311 - an order, not a secret
    samples: Samples = {kind: [] for kind in endings}
    asker = Asker(door)
    for number in range(count):
        for kind in draw.sample(list(endings), len(endings)):
            samples[kind].append(asker.ask(endings[kind][number % len(endings[kind])]))
    asker.close()
    return samples


def measure(count: int, once: int, tokens: int) -> dict[str, object]:
    """count: latencies of each kind over `tokens` tokens; once: tokens of each kind that are asked about once."""
    with running(dict.fromkeys(REFUSED, tokens + once)) as target:
        known = {kind: endings[:tokens] for kind, endings in target.endings.items()}
        note("tokens seen before")
        sample(target.door, known, tokens)
        repeated = sample(target.door, known, count)
        note("tokens never seen before")
        first = sample(target.door, {kind: ends[tokens:] for kind, ends in target.endings.items()}, once)
    return {"bench": "negatives", "count": count, "repeated": judged(repeated), "first_sight": judged(first)}


def readable(result: dict[str, object]) -> str:
    """Two series."""
    lines = []
    for name in ("repeated", "first_sight"):
        one = result[name]
        assert isinstance(one, dict)
        lines += [
            f"{name.replace('_', ' ')}: medians {one['median_us']} µs",
            f"  longer in a pair: {one['auc']}",
            f"  widest from 0.5: {one['widest']}; of a kind against itself: {one['control_widest']}",
        ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--count", type=int, default=10_000, help="latencies of each kind")
    arguments = parser.parse_args()
    result = measure(500, 100, 100) if arguments.quick else measure(arguments.count, 2_000, 500)
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
