"""`ccs ledger rehearse`: tries a restore of the newest backup, without a trace but a note of how it went."""

from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec
import trio

from admin.cli.backup_options import SEALING, Json, Sealing, keys_of
from admin.cli.ledger_restore import as_json, from_thread
from admin.cli.progress import bar

if TYPE_CHECKING:
    from admin.ledger.backup.filling import Restored
    from admin.ledger.backup.record import RehearsedNote


async def rehearse(place: Path, *, sealing: Sealing = SEALING, scratch: Path | None = None, json: Json = False) -> None:
    """Restore the newest backup into a file that is removed again, and write down how it went and how long it took.

    Neither the ledger's database nor the service is needed. The file needs as much room as the ledger.

    Exit code 0: all of it is right. Any other as of `ccs ledger restore`.

    Parameters
    ----------
    place
        The directory that backups were made into.
    scratch
        Where the file is made; where temporary files go unless named. It holds persons' data while it is there.
    json
        One JSON object in place of words and progress bars.
    """
    from admin.ledger.backup.rehearsal import Rehearsal

    there, record = sealing.open(place)
    trial = Rehearsal(there, keys_of(sealing.settings()), record, time, monotonic)
    with bar(hidden=json) as show:
        made, note = await trio.to_thread.run_sync(trial.run, scratch, from_thread(show))
    print(msgspec.json.encode(as_json(made) | {"seconds": note.seconds}).decode() if json else _in_words(made, note))


def _in_words(made: "Restored", note: "RehearsedNote") -> str:
    return (
        f"right: {made.verdict.events:,} events and {made.verdict.checkpoints:,} checkpoints of {note.backup}, "
        f"up to position {note.seq:,}, in {note.seconds:.1f} s"
    )
