"""Removes backups whose time is over, and only where the newest one was read from end to end before.

Nothing is removed where that fails, where backups seem to have stopped, or where the place holds more than one
ledger's. A series goes under another name first, so that a removal which is broken off leaves no half series.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from admin.ledger.backup.contents import Head
from admin.ledger.backup.place import Newest, NoBackup, Place
from admin.ledger.backup.record import Record
from admin.ledger.backup.retention import DAY, Aged, Judged, Rule, judge
from admin.ledger.backup.sealed import BrokenBackup
from admin.ledger.backup.shipping import PlaceOfAnother, furthest, readable
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault, Kind

STALE: Final = 2 * DAY  # seconds: two full backups were missed

Progress = Callable[[int, int], None]  # segments read, of how many


class BackupsStopped(Fault):
    """The newest backup is so old that what is there may soon be all there is."""

    kind = Kind.CONFLICT


class Listed(msgspec.Struct, frozen=True):
    """A series as an operator sees it. segments: 0 = it cannot be read."""

    judged: Judged
    aged: Aged
    segments: int
    bytes: int


class Pruning(msgspec.Struct, frozen=True):
    """What was found, and what goes. left: folders that hold no backup: of one broken off, of a removal broken off."""

    newest: Newest
    listed: Sequence[Listed]
    left: Sequence[str]

    @property
    def going(self) -> list[Listed]:
        """Series whose time is over."""
        return [one for one in self.listed if one.judged.goes]


def survey(place: Place, rule: Rule, now: float, record: Record | None = None) -> Pruning:
    """Look at all series; nothing is changed. now: seconds since 1970. record: of what was shipped. Call in a thread.

    Raises NoBackup, PlaceOfAnother, BackupsStopped, SegmentsMissing, BrokenRecord, LedgerUnavailable, and what is wrong
    with a series that began after the newest readable one.
    """
    try:
        return _survey(place, rule, now, record)
    except OSError as error:
        raise LedgerUnavailable(f"{place.root} cannot be read: {error.strerror}") from error


def _survey(place: Place, rule: Rule, now: float, record: Record | None) -> Pruning:
    ends, faults = readable(place)
    newest = furthest(ends)
    if newest is None:
        raise next(iter(faults.values()), NoBackup(f"{place.root} holds no backup"))
    if len({end.head.ledger for end in ends}) > 1:
        raise PlaceOfAnother(f"{place.root} holds backups of several ledgers: give each a place of its own")
    for name, fault in faults.items():
        if name > newest.series:
            raise fault
    if record is not None:
        record.refuse_less(ends)
    if now - newest.head.until.wall > STALE:
        raise BackupsStopped("no backup was made for two days: nothing is removed before that is mended")
    by_name = {end.series: end for end in ends}
    aged = [_aged(place, name, by_name.get(name)) for name in place.series()]
    judged = judge(aged, newest.series, now, rule)
    listed = [_listed(place, *pair, by_name.get(pair[1].name)) for pair in zip(judged, aged, strict=True)]
    return Pruning(newest, listed, place.left_over(now - DAY))


def check(place: Place, newest: Newest, progress: Progress = lambda _done, _of: None) -> None:
    """Read a series from end to end. Call in a thread. Raises BrokenBackup, WrongBackupKey."""
    before: Head | None = None
    for index in range(newest.index + 1):
        for part in place.parts(newest.series, index):
            if not isinstance(part, Head):
                continue
            if part.after != (before.until if before else None):
                raise BrokenBackup(f"{newest.series}: segment {index} does not follow on the one before it")
            before = part
        progress(index + 1, newest.index + 1)


def prune(place: Place, found: Pruning) -> None:
    """Remove what goes. Call in a thread, after `check`. Raises LedgerUnavailable where the place cannot be written."""
    for name in (*(one.judged.name for one in found.going), *found.left):
        place.remove(name)


def _aged(place: Place, name: str, end: Newest | None) -> Aged:
    held = place.is_held(name)
    if end is None:
        return Aged(name, None, None, held)
    try:
        return Aged(name, place.head(name, 0).until.wall, end.head.until.wall, held)
    except Fault:
        return Aged(name, None, None, held)


def _listed(place: Place, judged: Judged, aged: Aged, end: Newest | None) -> Listed:
    return Listed(judged, aged, 0 if end is None else end.index + 1, place.size(judged.name))
