"""`make simulate SEEDS=…` plays many seeds, `make simulate SEED=…` one, with its story.

Exit code 1: a promise was broken, or a mistake was found too seldom.
"""

import argparse
import sys
from collections import defaultdict

import msgspec
from rich.console import Console
from rich.progress import track

from tests.world.simulation.mistakes import MISTAKES
from tests.world.simulation.report import ENOUGH, Found, Summary, found_of, read_found, tables, write_found
from tests.world.simulation.running import WORLDS
from tests.world.simulation.world import Played

_screen = Console(stderr=True)


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    asked = argparse.ArgumentParser(prog="python -m tests.world.simulation", description=__doc__)
    asked.add_argument("--seeds", type=int, default=500, help="how many")
    asked.add_argument("--first", type=int, default=0, help="the first of them")
    asked.add_argument("--seed", type=int, help="play this one and tell its story")
    asked.add_argument("--mistake", default="", choices=["", *MISTAKES], help="make this mistake")
    asked.add_argument("--mistakes", action="store_true", help="measure how often each mistake is found")
    asked.add_argument("--keep", action="store_true", help="and write it down, in found.json and decision 0021")
    asked.add_argument("--json", action="store_true")
    asked.add_argument("--processes", type=int, default=0, help="0: one a core")
    options = asked.parse_args(argv)
    if options.seed is not None:
        return _tell(WORLDS.run(options.seed, options.mistake))
    seeds = range(options.first, options.first + options.seeds)
    if options.mistakes:
        names = [options.mistake] if options.mistake else list(MISTAKES)
        return _measure(names, seeds, options.processes, keep=options.keep, as_json=options.json)
    return _play(seeds, options.mistake, options.processes, as_json=options.json)


def _tell(played: Played) -> int:
    _say("\n".join(played.story))
    _say(f"seed {played.seed}: {played.seconds:.3f} simulated seconds, trace {played.trace_hash}")
    for wrong in played.wrongs[:1]:
        _say(f"BROKEN at {wrong.at} by {wrong.who}: {wrong.promise} ({wrong.detail})")
    return 1 if played.wrongs else 0


def _play(seeds: range, mistake: str, processes: int, *, as_json: bool) -> int:
    summary = Summary()
    jobs = [(seed, mistake) for seed in seeds]
    for played in track(WORLDS.run_all(jobs, processes), "playing", total=len(jobs), console=_screen, transient=True):
        summary.take(played)
    if as_json:
        _say(msgspec.json.encode(summary).decode())
    else:
        for line in summary.lines():
            _say(line)
        for seed, wrong in summary.wrong.items():
            _say(f"BROKEN in seed {seed} at {wrong.at} by {wrong.who}: {wrong.promise} ({wrong.detail})")
            _say(f"   again, with the whole story: make simulate SEED={seed}{f' MISTAKE={mistake!r}' * bool(mistake)}")
    return 1 if summary.wrong else 0


def _measure(names: list[str], seeds: range, processes: int, *, keep: bool, as_json: bool) -> int:
    jobs = [(seed, name) for name in names for seed in seeds]
    by_name: dict[str, list[Played]] = defaultdict(list)
    results = track(
        WORLDS.run_all(jobs, processes), "making mistakes", total=len(jobs), console=_screen, transient=True
    )
    for (_, name), played in zip(jobs, results, strict=True):
        by_name[name].append(played)
        if keep and len(by_name[name]) == len(seeds):  # after each one: it takes long
            write_found(read_found() | {name: found_of(by_name[name])})
    found: dict[str, Found] = {name: found_of(played) for name, played in by_name.items()}
    _say(msgspec.json.encode(found).decode() if as_json else tables(read_found() | found))
    seldom = [name for name, one in found.items() if one.share < ENOUGH]
    if seldom:
        _say(f"found too seldom: {', '.join(seldom)}")
    return 1 if seldom else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
