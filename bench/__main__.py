"""`make bench`: every bench, one after another, into `bench/RESULTS.md` and a chart beside it.

Each bench is a process of its own, so that none inherits another's memory. A bench prints readable lines and, last, one
JSON object; both are kept. The targets are those of the design; a figure that falls short is marked, not hidden.

    .venv/bin/python -m bench [--only NAME ...] [--quick]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.report import draw, page, table, verdict

HERE = Path(__file__).parent
LONGEST = 1_800.0  # seconds; a bench that takes longer is broken


class Bench(msgspec.Struct, frozen=True):
    """One bench: module arguments, and arguments that make it short."""

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


BENCHES = (
    Bench("effect", ("--json",), ("--revocations", "20")),
    Bench("ledger_append", ("--backend", "sqlite"), ("--rounds", "2")),
    Bench("ledger_append", ("--backend", "postgres"), ("--rounds", "2")),
    Bench("replica", (), ("--consents", "50000")),
    Bench("million", ("--json",), ("--consents", "20000")),
    Bench("comparison", ("--json", "--chart", "bench/comparison.png"), ("--quick",)),
    Bench("worker", (), ("--requests", "20000")),
    Bench("listener", (), ("--requests", "20000")),
    Bench("introspection"),
    Bench("decision", ("--json",)),
    Bench("tokens", ("--json",), ("--seconds", "0.2")),
    Bench("signed", ("--json",), ("--seconds", "0.2")),
    Bench("redis_link"),
)


def run(bench: Bench, *, quick: bool) -> tuple[str, dict[str, Any]]:
    """Run one bench; its output, and the JSON object of its last line that holds one."""
    arguments = [*bench.arguments, *(bench.quick if quick else ())]
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{bench.name}", *arguments],
        cwd=HERE.parent, capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"bench.{bench.name} failed:\n{done.stderr[-2000:]}")
    figures = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return done.stdout.strip(), json.loads(figures[-1]) if figures else {}


def key_of(bench: Bench) -> str:
    """Name of a bench's results; the back end where there are several."""
    return f"{bench.name} {bench.arguments[1]}" if "--backend" in bench.arguments else bench.name


def main() -> None:
    """Run what was asked for, write the page and the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of benches; all where nothing is said")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    arguments = parser.parse_args()
    chosen = [bench for bench in BENCHES if not arguments.only or bench.name in arguments.only]
    outputs: dict[str, str] = {}
    results: dict[str, Any] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for bench in chosen:
            task = progress.add_task(key_of(bench), total=None)
            outputs[key_of(bench)], results[key_of(bench)] = run(bench, quick=arguments.quick)
            progress.stop_task(task)
    rows = table(results)
    for target, value in rows:
        print(f"{target.what:<60}{value:>14,.6g} {target.unit:<4}{verdict(target, value).strip('*')}")
    if not arguments.only:
        draw(rows, HERE / "results.png")
        (HERE / "RESULTS.md").write_text(page(outputs, rows, quick=arguments.quick))


if __name__ == "__main__":
    main()
