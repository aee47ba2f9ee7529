"""`ccs ledger create`: begins a new ledger in an empty database, once, before the service is started on it."""

from pathlib import Path
from typing import TYPE_CHECKING

from admin.cli.backup_options import Flag
from engine.errors import Fault, Kind

if TYPE_CHECKING:
    from admin.config import Ledger


class HadLedger(Fault):
    """The record of backups tells of a ledger, so an empty database is a loss and no beginning."""

    kind = Kind.CONFLICT


async def create(*, config: Path, in_spite_of_record: Flag = False) -> None:
    """Begin a new ledger in the empty database that the settings name. The service never does it by itself.

    A ledger that was lost is restored (`ccs ledger restore`), not begun anew: everything in it would be gone.

    Exit code 0: it is there. 2: the settings or a key cannot be used. 3: the database does not answer. 5: there is a
    ledger already, or the record of backups tells of one.

    Parameters
    ----------
    config
        Settings of the admin application.
    in_spite_of_record
        Begin although the directory that `ledger.backup-record` names tells of a ledger.
    """
    from admin.config import load_admin_config
    from admin.ledger.sql import begin_ledger
    from engine.telemetry.host import SystemClock

    settings = load_admin_config(config).ledger
    if not in_spite_of_record:
        _refuse_recorded(settings)
    await begin_ledger(settings, SystemClock())
    print(f"a new {settings.kind} ledger begins; start the service")


def _refuse_recorded(settings: "Ledger") -> None:
    from admin.ledger.backup.record import read_unchecked
    from engine.config import BadConfig

    if settings.backup_record is None:
        return
    try:
        shipped, _ = read_unchecked(settings.backup_record)
    except OSError as error:
        raise BadConfig(f"{settings.backup_record}: {error.strerror}") from error
    if shipped is not None:
        raise HadLedger(
            f"a ledger was backed up to position {shipped.seq}, says {settings.backup_record}: restore it, or name "
            "another ledger.backup-record for the new one"
        )
