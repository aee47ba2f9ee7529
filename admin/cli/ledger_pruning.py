"""`ccs ledger prune-backups`: removes sealed backups whose time is over. Needs the place and the key, no database."""

from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from admin.cli.backup_options import SEALING, Flag, Json, Sealing
from admin.cli.progress import bar
from engine.clock import UnixTime, format_utc

if TYPE_CHECKING:
    from admin.ledger.backup.pruning import Listed, Pruning

Days = Annotated[float, Parameter(validator=Number(gte=1))]
Months = Annotated[int, Parameter(validator=Number(gte=0))]


async def prune_backups(
    place: Path,
    *,
    sealing: Sealing = SEALING,
    days: Days = 35,
    months: Months = 12,
    apply: Flag = False,
    json: Json = False,
) -> None:
    """Remove backups whose time is over; without --apply only say which. The newest is read from end to end before.

    Whole series go, never a part of one. A series that holds a file named `hold` stays, and so does one that this key
    does not open.

    Exit code 0: they are removed, or would be. 2: the settings or the key cannot be used. 3: the place cannot be
    written. 4: there is no backup. 5: the place holds backups of several ledgers, or none was made for two days. 7:
    the newest backup is damaged, or segments that were shipped are missing. Except with 0 and 3, nothing was removed.

    Parameters
    ----------
    place
        The directory that backups were made into.
    days
        How long every series stays after its end.
    months
        For how many months the first series of each month stays.
    apply
        Do it.
    json
        One JSON object in place of a table.
    """
    from admin.ledger.backup.pruning import check, prune, survey
    from admin.ledger.backup.retention import Rule

    there, record = sealing.open(place)
    found = await trio.to_thread.run_sync(survey, there, Rule(days, months), time(), record)
    with bar(hidden=json) as progress:

        def report(done: int, of: int) -> None:
            trio.from_thread.check_cancelled()
            progress("reading the newest backup", done, of)

        await trio.to_thread.run_sync(check, there, found.newest, report)
    if apply:
        await trio.to_thread.run_sync(prune, there, found)
    if json:
        print(msgspec.json.encode(_as_json(found, applied=apply)).decode())
    else:
        _show(found, Console(), applied=apply)


def _as_json(found: "Pruning", *, applied: bool) -> dict[str, object]:
    return {
        "applied": applied,
        "newest": found.newest.series,
        "removed": [one.judged.name for one in found.going],
        "bytes": sum(one.bytes for one in found.going),
        "left_over": found.left,
        "series": [
            {
                "series": one.judged.name,
                "why": one.judged.why,
                "began": one.aged.began,
                "ended": one.aged.ended,
                "segments": one.segments,
                "bytes": one.bytes,
            }
            for one in found.listed
        ],
    }


def _show(found: "Pruning", console: Console, *, applied: bool) -> None:
    table = Table("series", "ended", "segments", "bytes", "why", "")
    for one in found.listed:
        table.add_row(*_row(one, "removed" if applied else "goes"))
    console.print(table)
    size = sum(one.bytes for one in found.going)
    what = f"{len(found.going)} series, {size:,} bytes, {len(found.left)} folders without a backup"
    console.print(f"removed: {what}" if applied else f"to remove: {what}; add --apply")


def _row(one: "Listed", goes: str) -> tuple[str, ...]:
    ended = "" if one.aged.ended is None else format_utc(UnixTime(int(one.aged.ended)))
    return (
        one.judged.name,
        ended,
        f"{one.segments:,}",
        f"{one.bytes:,}",
        one.judged.why.value,
        f"[red]{goes}[/]" if one.judged.goes else "",
    )
