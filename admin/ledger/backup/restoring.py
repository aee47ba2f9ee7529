"""Makes a ledger from a backup: an empty database, the segments of a series, and a new incarnation behind them.

Whatever goes wrong, the target stays as it was: PostgreSQL fills in one transaction; SQLite fills a file beside the
target that gets its name at the end. Before that the whole chain, the signed checkpoints, what is derived from the
events, the kind and the keys are checked. Persons erased since the backup was made are erased again.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from admin.ledger.backup.filling import Filling, Keys, Progress, Restored, Source, TargetNotEmpty
from admin.ledger.backup.place import Newest, NoBackup, Place
from admin.ledger.backup.record import Record
from admin.ledger.backup.sealed import BrokenBackup
from admin.ledger.backup.shipping import PlaceOfAnother, furthest, readable
from admin.ledger.database import Database
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault

_DRAFT: Final = ".restoring"
_BESIDE: Final = ("", "-wal", "-shm", "-journal")  # a log left beside a database would be applied to another one


def choose(
    place: Place, series: str | None = None, segments: int | None = None, record: Record | None = None
) -> Source:
    """The series that is the furthest, or the one named, and what all of them show to have been reported.

    record: of what was shipped to the place. Raises NoBackup, BrokenBackup, WrongBackupKey, PlaceOfAnother; also when
    a series younger than the one chosen cannot be read, or when the last segment of the one named cannot: then say how
    many are to be taken. Raises SegmentsMissing where the record says more than is there and no series is named, and
    what `Record.shipped` raises.
    """
    ends, faults = readable(place)
    note = record.shipped() if record else None
    if series is None:
        series = _furthest(place, ends, faults).series
        if record is not None and segments is None:
            record.refuse_less(ends)
    end = _end_of(place, series, segments)
    reported = max(one.head.until.seq for one in [end, *ends] if one.head.ledger == end.head.ledger)
    if note is not None and note.ledger == end.head.ledger:
        reported = max(reported, note.seq)
    return Source(series, end.index + 1, reported)


def _end_of(place: Place, series: str, segments: int | None) -> Newest:
    there = len(place.segments(series))
    wanted = there if segments is None else segments
    if not 0 < wanted <= there:
        raise BrokenBackup(f"{series} has {there} segments")
    return Newest(series, wanted - 1, place.head(series, wanted - 1))


def _furthest(place: Place, ends: list[Newest], faults: dict[str, Fault]) -> Newest:
    if len({end.head.ledger for end in ends}) > 1:
        raise PlaceOfAnother(f"{place.root} holds backups of several ledgers: name a series")
    found = furthest(ends)
    younger = [fault for name, fault in faults.items() if found is None or name > found.series]
    if younger:
        raise younger[-1]
    if found is None:
        raise NoBackup(f"{place.root} holds no backup")
    return found


def restore(
    database: Database,
    place: Place,
    source: Source,
    keys: Keys,
    wall: float,
    *,
    reported: int = 0,
    progress: Progress = lambda _what, _done, _all: None,
) -> Restored:
    """Fill the database that `database` names. wall: now, seconds since 1970. Call in a thread.

    reported: the highest position that the operator knows to have been told. Raises TargetNotEmpty, BrokenBackup,
    WrongBackupKey, OtherSchema, WrongLedger, WrongPersonKey, RestoredBroken, BrokenJournal, BadConfig, ClockBehind,
    PositionTooHigh, and the database's faults.
    """
    filling = Filling(place, source, keys, wall, max(reported, source.reported), progress)
    filling.refuse_early()
    if not database.is_sqlite:
        database.transact(filling.all_at_once)
        database.scrub_now()  # rows of keys that were erased again
        return filling.result()
    try:
        _fill_file(Path(database.url.database or ""), filling)
    except OSError as error:
        raise LedgerUnavailable(f"{database.url.database} cannot be written: {error.strerror}") from error
    return filling.result()


def _fill_file(path: Path, filling: Filling) -> None:
    _refuse_files(path)
    draft = path.with_name(path.name + _DRAFT)
    _remove(draft)
    draft.touch(mode=0o600)
    fresh = Database(f"sqlite:///{draft}")
    try:
        for step in filling.steps():
            fresh.transact(step)
        fresh.scrub_now()
        fresh.dispose()  # the last connection takes the log away
        _publish(draft, path)
    finally:
        fresh.dispose()
        _remove(draft)


def _refuse_files(path: Path) -> None:
    for name in _files(path):
        if name.exists():
            raise TargetNotEmpty(f"{name} exists: a ledger is restored into a new file; move it away, do not remove it")
    if not path.parent.is_dir():
        raise TargetNotEmpty(f"{path.parent} is no directory")


def _files(path: Path) -> Iterable[Path]:
    return [path.with_name(path.name + end) for end in _BESIDE]


def _remove(draft: Path) -> None:
    for name in _files(draft):
        name.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    """Give the file its name, on disk, unless another one came there meanwhile."""
    os.link(draft, path)
    draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
