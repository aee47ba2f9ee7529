"""`ccs ledger backup` and `ccs ledger restore`: sealed copies in another place, and a new incarnation made from them.

`backup` reads the database beside the running service; `restore` fills an empty one before the service is started.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from admin.cli.running import settings_file
from engine.clock import Seconds, format_utc
from engine.config import BadConfig
from engine.errors import Fault

if TYPE_CHECKING:
    from admin.config import Ledger
    from admin.ledger.backup.filling import Keys, Restored
    from admin.ledger.backup.place import Place
    from admin.ledger.backup.shipping import Shipped

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Positive = Annotated[float, Parameter(validator=Number(gt=0))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Whole = Annotated[int, Parameter(validator=Number(gte=0))]
Bar = Callable[[str, int, int], None]


async def backup(
    place: Path,
    *,
    key: Path | None = None,
    config: Path | None = None,
    state: Path = Path("var"),
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative="")] = False,
    every: Positive = 1.0,
    full_every: Positive = 24.0,
    json: Json = False,
) -> None:
    """Seal a copy of the ledger into another place, while the service writes on.

    Exit code 0: it is there, read back and whole. 2: the settings or a key cannot be used. 3: the database does not
    answer, or the place cannot be written. 4: there is no ledger, or no such place. 5: the place holds another
    ledger's backups, another backup follows there, or the database has another schema. 7: what was read back
    differs. 130: ended by Ctrl-C.

    Parameters
    ----------
    place
        A directory that exists, on another machine's disk. Each full backup gets a folder there.
    key
        The backup key, 32 raw bytes; `ledger.backup-key-file` of the settings where none is named. Keep a copy of it
        apart from the backups.
    config
        Settings of the admin application.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    follow
        Go on with what is new, until Ctrl-C, behind the newest backup of the place where that is possible.
    every
        Seconds between looks for what is new.
    full_every
        Hours between full backups while following.
    json
        One JSON object for each segment, in place of words and a progress bar.
    """
    from admin.ledger.backup.shipping import Follower, Shipper
    from admin.ledger.sql import open_reader

    settings = _settings(config, state)
    there = _place(place, key or settings.backup_key_file)
    async with open_reader(settings) as reader:
        shipper = Shipper(reader.database, there, time)
        with bar(hidden=json) as told_of:
            if not follow:
                _tell(await shipper.full(lambda done, of: told_of("events", done, of)), place, json=json)
                return
            follower = Follower(
                shipper,
                every=Seconds(every),
                full_every=Seconds(3600 * full_every),
                told=lambda shipped: _tell(shipped, place, json=json),
                waited=_complain,
            )
            await follower.run()


async def restore(
    place: Path,
    *,
    key: Path | None = None,
    config: Path | None = None,
    state: Path = Path("var"),
    series: str | None = None,
    segments: Count | None = None,
    above: Whole = 0,
    without_journal: Flag = False,
    json: Json = False,
) -> None:
    """Fill an empty database from a backup, as a new incarnation. The service must not run.

    The newest backup is taken as far as it goes. Nothing is left behind where it fails. The service then starts in
    state *recovering*: docs/operators/restore.md says how to go on.

    Exit code 0: the ledger is there and whole. 2: the settings, a key or the clock cannot be used. 3: the database
    does not answer. 4: there is no backup. 5: the database is not empty, or the backup has another schema or is of
    the other kind of ledger. 7: the backup or the erasure journal is damaged.

    Parameters
    ----------
    place
        The directory that backups were made into.
    key
        The backup key; `ledger.backup-key-file` of the settings where none is named.
    config
        Settings of the admin application; the ledger they name is the one that is filled.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    series
        The folder to restore from, where it is not the newest.
    segments
        How many of its segments, where the last ones cannot be read.
    above
        The highest position that you know to have been reported: by nodes, receivers, receipts.
    without_journal
        Restore without the erasure journal that the settings name. Persons may come back who were erased.
    json
        One JSON object in place of words and progress bars.
    """
    from admin.ledger.backup.restoring import choose
    from admin.ledger.backup.restoring import restore as fill
    from admin.ledger.database import Database

    settings = _settings(config, state)
    there, keys = _place(place, key or settings.backup_key_file), _keys(settings, without_journal=without_journal)
    source = choose(there, series, segments)
    with bar(hidden=json) as told_of:

        def progress(what: str, done: int, of: int) -> None:
            trio.from_thread.check_cancelled()
            told_of(what, done, of)

        database = Database.of(settings)
        try:
            made = await trio.to_thread.run_sync(
                lambda: fill(database, there, source, keys, time(), reported=above, progress=progress)
            )
        finally:
            database.dispose()
    print(msgspec.json.encode(_as_json(made)).decode() if json else _in_words(made))


def _settings(config: Path | None, state: Path) -> "Ledger":
    from admin.config import load_admin_config

    return load_admin_config(config or settings_file(state, "admin.toml")).ledger


def place_of(root: Path, key: Path | None, config: Path | None, state: Path) -> "Place":
    """The place with the key that opens it; settings are read only where no key is named. Raises BadConfig."""
    return _place(root, key or _settings(config, state).backup_key_file)


def _place(root: Path, file: Path | None) -> "Place":
    from admin.ledger.backup.place import Place
    from admin.ledger.backup.sealed import BackupKey

    if file is None:
        raise BadConfig("name the backup key: --key FILE, or ledger.backup-key-file in the settings")
    if file.resolve().is_relative_to(root.resolve()):
        raise BadConfig(f"{file}: the key lies among the backups; keep it apart from them")
    return Place(root, BackupKey.from_file(file))


def _keys(settings: "Ledger", *, without_journal: bool) -> "Keys":
    from admin.ledger.backup.filling import Keys
    from admin.ledger.checkpoints import CheckpointKey
    from admin.ledger.personal import Safe

    return Keys(
        settings.kind,
        Safe.from_file(settings.person_key_file),
        CheckpointKey.from_file(settings.checkpoint_key_file),
        None if without_journal else settings.erasure_journal,
    )


@contextmanager
def bar(*, hidden: bool) -> Iterator[Bar]:
    """A bar on standard error, where somebody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, of: progress.update(task, description=what, completed=done, total=of)


def _complain(fault: Fault) -> None:
    print(f"ccs: waiting: {fault.text}", file=sys.stderr, flush=True)


def _tell(shipped: "Shipped", place: Path, *, json: bool) -> None:
    taken = shipped.taken
    until, events = taken.head.until, taken.counts.get("events", 0)
    if json:
        said = {
            "place": str(place),
            "series": shipped.series,
            "segment": shipped.index,
            "full": shipped.index == 0,
            "incarnation": until.incarnation,
            "seq": until.seq,
            "as_of": until.wall,
            "rows": taken.counts,
            "bytes": shipped.bytes,
            "seconds": round(shipped.seconds, 3),
        }
        print(msgspec.json.encode(said).decode(), flush=True)
        return
    what = "full backup" if shipped.index == 0 else f"segment {shipped.index}"
    size, took = f"{shipped.bytes:,} bytes", f"{shipped.seconds:.1f} s"
    print(f"{what} of {shipped.series}: {events:,} events up to {until.seq:,}, {size}, {took}", flush=True)


def _as_json(made: "Restored") -> dict[str, object]:
    return {
        "backup": made.backup,
        "incarnation": made.position.incarnation,
        "seq": made.position.seq,
        "previous_incarnation": made.event.previous_incarnation,
        "restored_seq": made.event.restored_seq,
        "reported_seq": made.event.reported_seq,
        "gap_from": made.event.gap_from,
        "gap_to": made.event.gap_to,
        "erased_again": made.event.erased_again,
        "rows": made.counts,
        "events": made.verdict.events,
        "checkpoints": made.verdict.checkpoints,
        "persons": made.verdict.persons,
        "erased": made.verdict.erased,
        "checkpoint": made.verdict.newest,
    }


def _in_words(made: "Restored") -> str:
    event, verdict = made.event, made.verdict
    return (
        f"restored: {verdict.events:,} events and {verdict.checkpoints:,} checkpoints are right\n"
        f"kept: everything up to {event.restored_seq:,} of incarnation {event.previous_incarnation}\n"
        f"lost: what was written from {format_utc(event.gap_from)} to {format_utc(event.gap_to)}, if anything was\n"
        f"erased again: {event.erased_again:,}; {verdict.erased:,} of {verdict.persons:,} persons have no key\n"
        f"goes on: incarnation {made.position.incarnation} at {made.position.seq:,}\n"
        "next: start the service; it is recovering until you say that it may go live"
    )
