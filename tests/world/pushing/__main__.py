"""Play many seeds, or one with its story; or make the deliberate mistakes and write down how often each is found.

Exit code 1: a promise was broken, or a mistake was found too seldom.
"""

import argparse
import sys
from collections import Counter

from tests.world.pushing.mistakes import MISTAKES
from tests.world.pushing.report import ENOUGH, found_of, read_found, table, write_found
from tests.world.pushing.running import WORLDS


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    asked = argparse.ArgumentParser(prog="python -m tests.world.pushing", description=__doc__)
    asked.add_argument("--seeds", type=int, default=100, help="how many")
    asked.add_argument("--first", type=int, default=0, help="the first of them")
    asked.add_argument("--seed", type=int, help="play this one and tell its story")
    asked.add_argument("--mistake", default="", choices=["", *MISTAKES], help="make this mistake")
    asked.add_argument("--mistakes", action="store_true", help="measure how often each mistake is found")
    asked.add_argument("--keep", action="store_true", help="and write it down, in found.json and decision 0021")
    asked.add_argument("--processes", type=int, default=0, help="0: one a core")
    options = asked.parse_args(argv)
    if options.seed is not None:
        return _tell(options.seed, options.mistake)
    seeds = range(options.first, options.first + options.seeds)
    if options.mistakes:
        names = [options.mistake] if options.mistake else list(MISTAKES)
        return _measure(names, seeds, options.processes, keep=options.keep)
    return _play(seeds, options.mistake, options.processes)


def _tell(seed: int, mistake: str) -> int:
    played = WORLDS.run(seed, mistake)
    _say("\n".join(played.story))
    _say(f"seed {played.seed}: {played.seconds:.3f} simulated seconds, trace {played.trace_hash}")
    for wrong in played.wrongs[:1]:
        _say(f"BROKEN at {wrong.at} by {wrong.who}: {wrong.promise} ({wrong.detail})")
    return 1 if played.wrongs else 0


def _play(seeds: range, mistake: str, processes: int) -> int:
    counted, broken = Counter[str](), 0
    for played in WORLDS.run_all([(seed, mistake) for seed in seeds], processes):
        counted.update(played.counted)
        for wrong in played.wrongs[:1]:
            broken += 1
            _say(f"BROKEN in seed {played.seed} at {wrong.at} by {wrong.who}: {wrong.promise} ({wrong.detail})")
            said = f" --mistake {mistake!r}" if mistake else ""
            _say(f"   again, with the whole story: python -m tests.world.pushing --seed {played.seed}{said}")
    _say(f"{len(seeds)} seeds, {broken} with a broken promise")
    for name, count in sorted(counted.items()):
        _say(f"{count:>8} {name}")
    return 1 if broken else 0


def _measure(names: list[str], seeds: range, processes: int, *, keep: bool) -> int:
    found = {}
    for name in names:
        found[name] = found_of(WORLDS.run_all([(seed, name) for seed in seeds], processes))
        if keep:  # after each one: it takes long
            write_found(read_found() | found)
    _say(table(read_found() | found))
    seldom = [name for name, one in found.items() if one.share < ENOUGH]
    if seldom:
        _say(f"found too seldom: {', '.join(seldom)}")
    return 1 if seldom else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
