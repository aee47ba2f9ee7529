"""`make bench`: every bench, one after another, into `bench/RESULTS.md` and a chart beside it.

Each bench is a process of its own, so that none inherits another's memory. A bench prints readable lines and, last, one
JSON object; both are kept. The targets are those of the design; a figure that falls short is marked, not hidden.

    .venv/bin/python -m bench [--only NAME ...] [--quick] [--at-least SPEED]

With --only, the sections of the other benches stay as they are; with --quick, nothing is written. The machine's speed
(`bench.yardstick`) is written beside each section; with --at-least, each bench waits for a machine so fast, and one
that never becomes so keeps the section it had.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.kept import Section, sections_of
from bench.report import draw, page, table, verdict
from bench.yardstick import speed, wait_for

HERE = Path(__file__).parent
LONGEST = 10_800.0  # seconds; a bench that takes longer is broken: the flood of a million takes an hour and more
PATIENCE = 600.0  # seconds that one bench waits for a machine that is fast enough


class Bench(msgspec.Struct, frozen=True):
    """One bench: module arguments, and arguments that make it short."""

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


BENCHES = (
    Bench("effect", ("--json",), ("--revocations", "20")),
    Bench("barrier", ("--json",), ("--revocations", "20")),
    Bench("freshness", ("--json",), ("--quick",)),
    Bench("ledger_append", ("--backend", "sqlite"), ("--rounds", "2")),
    Bench("ledger_append", ("--backend", "postgres"), ("--rounds", "2")),
    Bench("replica", (), ("--consents", "50000")),
    Bench("million", ("--json",), ("--consents", "20000")),
    Bench("restore", ("--json",), ("--consents", "20000", "--seconds", "5")),
    Bench("comparison", ("--json", "--chart", "bench/comparison.png"), ("--quick",)),
    Bench("scaling", ("--json",), ("--quick",)),
    Bench("latency", ("--json",), ("--quick",)),
    Bench("overload", ("--json",), ("--quick",)),
    Bench("handshakes", ("--json",), ("--quick",)),
    Bench("bystanders", ("--json",), ("--quick",)),
    Bench("redis_lost", ("--json",), ("--quick",)),
    Bench("pushes", ("--json",), ("--seconds", "2")),
    Bench("takeover", ("--json",), ("--receivers", "100", "--rounds", "1")),
    Bench("outbox", ("--backend", "sqlite"), ("--deliveries", "20000", "--repeat", "3")),
    Bench("outbox", ("--backend", "postgres"), ("--deliveries", "20000", "--repeat", "3")),
    Bench("flood", ("--json",), ("--quick",)),
    Bench("guard", ("--json",), ("--seconds", "1")),
    Bench("negatives", ("--json",), ("--quick",)),
    Bench("worker", (), ("--requests", "20000")),
    Bench("listener", (), ("--requests", "20000")),
    Bench("introspection"),
    Bench("evaluations", ("--json",)),
    Bench("decision", ("--json",)),
    Bench("tokens", ("--json",), ("--seconds", "0.2")),
    Bench("signed", ("--json",), ("--seconds", "0.2")),
    Bench("redis_link"),
)


def run(bench: Bench, *, quick: bool) -> str:
    """Run one bench; what it said."""
    arguments = [*bench.arguments, *(bench.quick if quick else ())]
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{bench.name}", *arguments],
        cwd=HERE.parent, capture_output=True, text=True, timeout=LONGEST, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"bench.{bench.name} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def key_of(bench: Bench) -> str:
    """Name of a bench's results; the back end where there are several."""
    return f"{bench.name} {bench.arguments[1]}" if "--backend" in bench.arguments else bench.name


def main() -> None:
    """Run what was asked for, write the page and the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of benches; all where nothing is said")
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--at-least", type=float, default=0.0, help="speed of the machine to wait for; 1.0 = reference")
    arguments = parser.parse_args()
    chosen = [bench for bench in BENCHES if not arguments.only or bench.name in arguments.only]
    written = HERE / "RESULTS.md"
    kept = sections_of(written.read_text()) if written.exists() and not arguments.quick else {}
    fresh: dict[str, Section] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for bench in chosen:
            task = progress.add_task(key_of(bench), total=None)
            section = section_of(bench, arguments)
            if section is None:
                progress.console.print(f"{key_of(bench)}: the machine did not become fast enough")
            else:
                fresh[key_of(bench)] = section
            progress.stop_task(task)
    show(fresh)
    if not arguments.quick:
        write(kept | fresh, written)


def section_of(bench: Bench, arguments: argparse.Namespace) -> Section | None:
    """Run a bench between two looks at the machine; None: it did not become fast enough to begin."""
    before = wait_for(arguments.at_least, PATIENCE)
    if before < arguments.at_least:
        return None
    output = run(bench, quick=arguments.quick)
    return Section(time.strftime("%Y-%m-%d"), output, f"{before:.2f} before and {speed():.2f} after")


def show(fresh: Mapping[str, Section]) -> None:
    """What was measured now, against its targets."""
    for target, value in table({name: section.figures for name, section in fresh.items()}):
        print(f"{target.what:<60}{value:>14,.6g} {target.unit:<4}{verdict(target, value).strip('*')}")


def write(sections: dict[str, Section], written: Path) -> None:
    """The page and its chart; benches that did not run now keep their sections."""
    ordered = {key_of(bench): sections[key_of(bench)] for bench in BENCHES if key_of(bench) in sections}
    rows = table({name: section.figures for name, section in ordered.items()})
    draw(rows, HERE / "results.png")
    written.write_text(page(ordered, rows))


if __name__ == "__main__":
    main()
