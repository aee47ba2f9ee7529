"""`ccs ledger`: verify, follow and export the ledger. They read the database itself, beside the running service.

Those about backups, `recovering` and `go-live` stand in files of their own.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import msgspec
import trio
from cyclopts import App, Parameter
from cyclopts.validators import Number

from admin.cli.ledger_backup import backup
from admin.cli.ledger_creation import create
from admin.cli.ledger_pruning import prune_backups
from admin.cli.ledger_recovery import go_live, recovering
from admin.cli.ledger_rehearsal import rehearse
from admin.cli.ledger_restore import restore
from admin.cli.progress import bar
from admin.cli.running import settings_file
from engine.config import BadConfig
from engine.errors import Fault, Kind

if TYPE_CHECKING:
    from admin.config import Ledger
    from admin.ledger.checkpoints import Checkpoint
    from admin.ledger.reader import SqlLedgerReader
    from admin.ledger.verify import Progress as Report
    from admin.ledger.verify import Verdict

PAGE: Final = 1_000  # events read at once
LOOK_EVERY: Final = 0.2  # seconds between looks of `tail --follow`

Json = Annotated[bool, Parameter(name="--json", negative="")]
Lines = Annotated[int, Parameter(name=("--lines", "-n"), validator=Number(gte=0))]
Seq = Annotated[int, Parameter(validator=Number(gte=0))]

app = App(name="ledger", help="Begin, verify, follow, export, back up and restore the ledger.", backend="trio")
app.command(create)
app.command(backup)
app.command(restore)
app.command(rehearse)
app.command(prune_backups)
app.command(recovering)
app.command(go_live)


class LedgerBroken(Fault):
    """The ledger is not what it was."""

    kind = Kind.BROKEN


@app.command
async def verify(
    *, config: Path | None = None, state: Path = Path("var"), against: Path | None = None, json: Json = False
) -> None:
    """Walk the whole chain and name the first entry that is wrong, if any.

    Exit code 0: the ledger is whole. 2: the settings, a key or the kept checkpoint cannot be used. 3: the database
    does not answer. 4: there is no ledger, or no sandbox. 7: it is not whole.

    Parameters
    ----------
    config
        Settings of the admin application.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    against
        A checkpoint kept from an earlier run: the `checkpoint` member of `--json`, in a file of its own.
    json
        One JSON object in place of words and a progress bar.
    """
    from admin.ledger.checkpoints import CheckpointKey
    from admin.ledger.verify import verify as walk

    settings = _settings(config, state)
    key = CheckpointKey.from_file(settings.checkpoint_key_file)
    kept = (_read_checkpoint(against),) if against else ()
    async with _reader(config, state) as reader:
        with _progress(hidden=json) as report:
            verdict = await walk(reader, key, against=kept, progress=report)
    print(msgspec.json.encode(_as_json(verdict)).decode() if json else _in_words(verdict))
    if verdict.fault is not None:
        raise LedgerBroken(f"event {verdict.fault.seq}: {verdict.fault.what}")


@app.command
async def tail(
    *,
    config: Path | None = None,
    state: Path = Path("var"),
    lines: Lines = 20,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False,
    json: Json = False,
) -> None:
    """Print the newest events, a line each.

    Exit code 0: they are printed. 2: the settings or a key cannot be used. 3: the database does not answer. 4: there
    is no ledger, or no sandbox. 130: ended by Ctrl-C. 141: nobody reads on.

    Parameters
    ----------
    config
        Settings of the admin application.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    lines
        How many of the newest events.
    follow
        Go on with events as they come, until Ctrl-C.
    json
        One JSON object a line.
    """
    from admin.ledger.printing import json_line, line

    async with _reader(config, state) as reader:
        after = await reader.before_newest(lines)
        while True:
            events = await reader.events(after, PAGE)
            for event in events:
                print(json_line(event).decode() if json else line(event), flush=True)
                after = event.position.seq
            if not events:
                if not follow:
                    return
                await trio.sleep(LOOK_EVERY)


@app.command
async def export(
    *, out: Path | None = None, config: Path | None = None, state: Path = Path("var"), after: Seq = 0
) -> None:
    """Write all events as JSON lines. They are complete, so that every hash can be computed again; personal fields
    stay encrypted.

    Exit code 0: all are written. 2: the settings, a key or the file cannot be used. 3: the database does not answer.
    4: there is no ledger, or no sandbox. 141: nobody reads on.

    Parameters
    ----------
    out
        File to write, which must not exist; standard output where none is named.
    config
        Settings of the admin application.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    after
        Leave out the events up to this number.
    """
    from admin.ledger.printing import json_line

    async with _reader(config, state) as reader:
        end = (await reader.head()).position.seq
        with _output(out) as file, _progress(hidden=out is None) as report:
            while after < end:
                events = [event for event in await reader.events(after, PAGE) if event.position.seq <= end]
                file.writelines(json_line(event) + b"\n" for event in events)
                after = events[-1].position.seq if events else end
                report(after, end)


def _settings(config: Path | None, state: Path) -> "Ledger":
    from admin.config import load_admin_config

    return load_admin_config(config or settings_file(state, "admin.toml")).ledger


@asynccontextmanager
async def _reader(config: Path | None, state: Path) -> "AsyncIterator[SqlLedgerReader]":
    from admin.ledger.sql import open_reader

    async with open_reader(_settings(config, state)) as reader:
        yield reader


@contextmanager
def _progress(*, hidden: bool) -> "Iterator[Report]":
    with bar("events", hidden=hidden) as show:
        yield lambda done, total: show("events", done, total)


@contextmanager
def _output(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        return
    try:
        file = out.open("xb")
    except OSError as error:
        raise BadConfig(f"{out}: {error.strerror}") from error
    with file:
        yield file


def _read_checkpoint(path: Path) -> "Checkpoint":
    from admin.ledger.checkpoints import Checkpoint

    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise BadConfig(f"{path}: not a checkpoint: {error}") from error


def _as_json(verdict: "Verdict") -> dict[str, object]:
    return {
        "whole": verdict.fault is None,
        "events": verdict.events,
        "checkpoints": verdict.checkpoints,
        "persons": verdict.persons,
        "erased": verdict.erased,
        "head": {
            "incarnation": verdict.head.position.incarnation,
            "seq": verdict.head.position.seq,
            "hash": verdict.head.hash.hex(),
        },
        "checkpoint": verdict.newest,
        "fault": verdict.fault,
    }


def _in_words(verdict: "Verdict") -> str:
    walked = f"{verdict.events:,} events and {verdict.checkpoints:,} checkpoints are right"
    if verdict.fault is not None:
        return f"{walked}; then the chain breaks"
    return f"whole: {walked}; incarnation {verdict.head.position.incarnation}, head {verdict.head.hash.hex()}"
