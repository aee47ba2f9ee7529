"""`ccs ledger backup`: sealed copies in another place, made beside the running service."""

import sys
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from admin.cli.backup_options import SEALING, Json, Sealing
from admin.cli.progress import bar
from engine.clock import Seconds
from engine.errors import Fault

if TYPE_CHECKING:
    from admin.ledger.backup.place import Place
    from admin.ledger.backup.record import Record
    from admin.ledger.backup.shipping import Shipped

Positive = Annotated[float, Parameter(validator=Number(gt=0))]


async def backup(
    place: Path,
    *,
    sealing: Sealing = SEALING,
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

    settings = sealing.settings()
    there, record = sealing.open(place)
    _complain_of_less(there, record)

    def told(shipped: "Shipped") -> None:
        _note(shipped, record)
        _tell(shipped, place, json=json)

    async with open_reader(settings) as reader:
        shipper = Shipper(reader.database, there, time)
        with bar(hidden=json) as show:
            if not follow:
                told(await shipper.full(lambda done, of: show("events", done, of)))
                return
            follower = Follower(
                shipper, every=Seconds(every), full_every=Seconds(3600 * full_every), told=told, waited=_complain
            )
            await follower.run()


def _complain_of_less(place: "Place", record: "Record | None") -> None:
    """Say loudly that newest segments are gone. It is no reason to make no backup."""
    from admin.ledger.backup.place import NoBackup
    from admin.ledger.backup.shipping import readable

    if record is None:
        return
    try:
        ends, _ = readable(place)
    except NoBackup:
        ends = []  # who ships is told in its own words
    try:
        record.refuse_less(ends)
    except Fault as fault:
        _complain(fault)


def _note(shipped: "Shipped", record: "Record | None") -> None:
    try:
        if record is not None:
            record.note_shipped(shipped.newest)
    except Fault as fault:  # shipping is worth more than the note about it
        _complain(fault)


def _complain(fault: Fault) -> None:
    print(f"ccs: backup: {fault.text}", file=sys.stderr, flush=True)


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
