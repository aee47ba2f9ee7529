"""Break a real installation at random, by a seed, under load: `make chaos SECONDS=300 SEED=7`.

Real processes on loopback only: admin, Redis, nodes, a pusher, guards, mutual TLS between all. They are killed, frozen
and cut off from each other while EDPs ask and consents are granted and revoked; every answer is checked against what
was known before it was asked. Exit code 0: no promise was broken. 1: one was, or guards answered less than `--answered`
says. 2: wrong input. 3: the system did not come up. 130: Ctrl-C.
"""

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.chaos.report import figures, write_report
from tests.chaos.results import Results
from tests.chaos.run import PROFILES, Options, Run
from tests.chaos.system import NotReady
from tests.chaos.watching import Watching

FEWEST_SECONDS = 12.0
SHOWN = 20  # violations on the terminal; all of them stand in the results


def main(argv: list[str]) -> int:
    """Run, and say what came of it."""
    options, chosen = _read(argv)
    console = Console(stderr=chosen.json)
    console.print(f"seed {options.seed}; logs lie in {options.directory}", soft_wrap=True)
    results: Results | None = None
    failed: list[BaseException] = []
    try:
        with _ledger(options) as (url, *more), _watching(console, options) as watching:
            results = trio.run(_until_told, options, watching, url, *more)
    except* NotReady as group:
        failed = list(group.exceptions)
    if failed:
        console.print(f"the system did not come up: {failed}; logs lie in {options.directory}", soft_wrap=True)
        return 3
    if results is None:
        console.print(f"ended; logs lie in {options.directory}", soft_wrap=True)
        return 130
    (options.directory / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if chosen.report:
        write_report(results, chosen.report)
    if chosen.json:
        sys.stdout.write(msgspec.json.encode(results).decode() + "\n")
    _show(console, results)
    if results.violations or chosen.keep:
        console.print(f"logs and results lie in {options.directory}", soft_wrap=True)
    else:
        shutil.rmtree(options.directory, ignore_errors=True)
    answered = results.guards.guarded.answered.seen
    if short := bool(chosen.answered) and not answered.reaches(chosen.answered / 100):
        console.print(f"fewer than {chosen.answered:g} % of what guards had introspected was answered", soft_wrap=True)
    return 1 if results.violations or short else 0


async def _until_told(options: Options, watching: Watching, url: str, *more: Any) -> Results | None:
    """None: a signal ended it; every process is ended in either case."""
    results = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_at_signals, nursery.cancel_scope)
        results = await Run(options, watching, url, *more)()
        nursery.cancel_scope.cancel()
    return results


async def _end_at_signals(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()


def _read(argv: list[str]) -> tuple[Options, argparse.Namespace]:
    asked = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    asked.add_argument("--seconds", type=float, default=300.0, help="of load")
    asked.add_argument("--seed", type=int, default=None, help="drawn and printed where none is given")
    asked.add_argument("--nodes", type=int, default=3)
    asked.add_argument("--rate", type=float, default=60.0, help="questions a second about consents that come and go")
    asked.add_argument("--checks", type=float, default=50.0, help="shares a second of consents that last, both ways")
    asked.add_argument(
        "--lasting", type=int, help="of them, for each EDP with a guard; else as many as seconds, to 300"
    )
    asked.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help="outage: guards are left alone")
    asked.add_argument(
        "--circuit-pace",
        type=float,
        default=10.0,
        help="the circuits of guards wait so much less than in a real outage",
    )
    asked.add_argument(
        "--answered", type=float, default=0.0, help="per cent of the checks of known tokens that guards must answer"
    )
    asked.add_argument("--postgres", action="store_true", help="the ledger in PostgreSQL, whose server is killed too")
    asked.add_argument("--report", type=Path, help="folder to write CHAOS.md and chaos.png to")
    asked.add_argument("--json", action="store_true", help="the results as one line of JSON on standard output")
    asked.add_argument("--directory", type=Path, help="a new folder for data and logs; it is kept")
    asked.add_argument("--keep", action="store_true", help="keep the folder also when nothing was wrong")
    chosen = asked.parse_args(argv)
    if chosen.seconds < FEWEST_SECONDS or chosen.nodes < 2 or chosen.circuit_pace < 1:
        asked.error(f"at least {FEWEST_SECONDS:.0f} seconds, two nodes and a pace of 1")
    lasting = min(300, int(chosen.seconds)) if chosen.lasting is None else chosen.lasting
    if chosen.rate <= 0 or chosen.checks <= 0 or lasting < 1:
        asked.error("some questions, some checks and a consent to check")
    if chosen.directory is not None:
        if chosen.directory.exists() and any(chosen.directory.iterdir()):
            asked.error(f"{chosen.directory} holds something else")
        chosen.directory.mkdir(parents=True, exist_ok=True)
        chosen.keep = True
    directory = chosen.directory or Path(tempfile.mkdtemp(prefix="ccs-chaos-"))
    seed = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    options = Options(
        seconds=chosen.seconds,
        seed=seed,
        directory=directory.absolute(),
        nodes=chosen.nodes,
        rate=chosen.rate,
        postgres=chosen.postgres,
        pace=chosen.circuit_pace,
        checks=chosen.checks,
        lasting=lasting,
        profile=chosen.profile,
    )
    return options, chosen


@contextmanager
def _ledger(options: Options) -> Iterator[tuple[Any, ...]]:
    if not options.postgres:
        yield (f"sqlite:///{options.directory / 'ledger.db'}",)
        return
    from tests.chaos.postgres import own_server

    with own_server() as (url, server):
        yield url, server


@contextmanager
def _watching(console: Console, options: Options) -> Iterator[Watching]:
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=options.seconds)
        yield Watching(
            lambda said: console.print(f"  {said}", highlight=False),
            lambda done, said: progress.update(task, completed=done, description=said),
        )


def _show(console: Console, results: Results) -> None:
    table = Table("figure", "value", title=f"seed {results.seed}, {results.seconds:.0f} s")
    for name, value in figures(results):
        table.add_row(name, value)
    console.print(table)
    for one in results.violations[:SHOWN]:
        console.print(f"[red]{one.rule}[/]{_when(one.at)}: {one.says}", soft_wrap=True)
    console.print(f"{len(results.violations)} violations")


def _when(at: float) -> str:
    return f" at {datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}" if at else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
