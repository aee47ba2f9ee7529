"""`ccs ledger restore`: fills an empty database from a backup, before the service is started on it."""

from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from admin.cli.backup_options import SEALING, Flag, Json, Sealing, keys_of
from admin.cli.progress import Bar, bar
from engine.clock import format_utc

if TYPE_CHECKING:
    from admin.config import Ledger
    from admin.ledger.backup.filling import Progress, Restored, Source
    from admin.ledger.backup.place import Place

Count = Annotated[int, Parameter(validator=Number(gte=1))]
Whole = Annotated[int, Parameter(validator=Number(gte=0))]


async def restore(
    place: Path,
    *,
    sealing: Sealing = SEALING,
    series: str | None = None,
    segments: Count | None = None,
    above: Whole = 0,
    without_journal: Flag = False,
    without_record: Flag = False,
    json: Json = False,
) -> None:
    """Fill an empty database from a backup, as a new incarnation. The service must not run.

    The newest backup is taken as far as it goes. Nothing is left behind where it fails. The service then starts in
    state *recovering*: docs/operators/restore.md says how to go on.

    Exit code 0: the ledger is there and whole. 2: the settings, a key or the clock cannot be used. 3: the database
    does not answer. 4: there is no backup. 5: the database is not empty, or the backup has another schema or is of
    the other kind of ledger. 7: the backup, its record or the erasure journal is damaged, or newest
    segments are missing.

    Parameters
    ----------
    place
        The directory that backups were made into.
    sealing
        The settings' ledger is the one that is filled.
    series
        The folder to restore from, where it is not the newest.
    segments
        How many of its segments, where the last ones cannot be read.
    above
        The highest position that you know to have been reported: by nodes, receivers, receipts.
    without_journal
        Restore without the erasure journal that the settings name. Persons may come back who were erased.
    without_record
        Restore without holding the place against the record. What was removed from its end is not noticed.
    json
        One JSON object in place of words and progress bars.
    """
    from admin.ledger.backup.restoring import choose

    settings = sealing.settings()
    there, record = sealing.open(place, with_record=not without_record)
    source = choose(there, series, segments, record)
    with bar(hidden=json) as show:
        made = await _fill(settings, there, source, above, show, without_journal=without_journal)
    print(msgspec.json.encode(as_json(made)).decode() if json else in_words(made))


async def _fill(
    settings: "Ledger", place: "Place", source: "Source", above: int, show: Bar, *, without_journal: bool
) -> "Restored":
    from admin.ledger.backup.restoring import restore as fill
    from admin.ledger.database import Database

    keys, database = keys_of(settings, without_journal=without_journal), Database.of(settings)
    try:
        return await trio.to_thread.run_sync(
            lambda: fill(database, place, source, keys, time(), reported=above, progress=from_thread(show))
        )
    finally:
        database.dispose()


def from_thread(show: Bar) -> "Progress":
    """A progress report for work in a thread, which ends there when the command is ended."""

    def progress(what: str, done: int, of: int) -> None:
        trio.from_thread.check_cancelled()
        show(what, done, of)

    return progress


def as_json(made: "Restored") -> dict[str, object]:
    """Members of the command's JSON."""
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


def in_words(made: "Restored") -> str:
    """What the command prints for people."""
    event, verdict = made.event, made.verdict
    return (
        f"restored: {verdict.events:,} events and {verdict.checkpoints:,} checkpoints are right\n"
        f"kept: everything up to {event.restored_seq:,} of incarnation {event.previous_incarnation}\n"
        f"lost: what was written from {format_utc(event.gap_from)} to {format_utc(event.gap_to)}, if anything was\n"
        f"erased again: {event.erased_again:,}; {verdict.erased:,} of {verdict.persons:,} persons have no key\n"
        f"goes on: incarnation {made.position.incarnation} at {made.position.seq:,}\n"
        "next: start the service; it is recovering until you say that it may go live"
    )
