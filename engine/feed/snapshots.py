"""A snapshot: the newest entry of every key, between two marks that name the position it stands for.

The first mark says S. What follows is ordered by (kind, key), each entry with its own number; an entry that
was written while the snapshot was read may be newer than S, which does no harm: applying is idempotent and
the higher number wins. The last mark repeats S and counts the entries, so that a snapshot that was cut off is
never taken for a whole one.
"""

import enum
from typing import Final

import msgspec

from engine.errors import Fault, Kind
from engine.feed.entries import Entry, EntryKind, Position

BEGIN: Final = b"snapshot-begin"
END: Final = b"snapshot-end"


class BrokenSnapshot(Fault):
    """Entries out of order, of another incarnation, too few or too many."""

    kind = Kind.BROKEN


class Part(enum.Enum):
    """What an entry of a snapshot is."""

    BEGIN = enum.auto()
    RECORD = enum.auto()
    END = enum.auto()


def begin_mark(position: Position) -> Entry:
    """The first entry of a snapshot that stands for `position`."""
    return Entry(position.incarnation, position.seq, EntryKind.NOTHING, BEGIN)


def end_mark(position: Position, count: int) -> Entry:
    """The last entry; count: the records between the marks."""
    return Entry(position.incarnation, position.seq, EntryKind.NOTHING, END, msgspec.msgpack.encode(count))


class SnapshotCheck:
    """Follows a snapshot entry by entry and refuses what does not belong there."""

    def __init__(self) -> None:
        self.position: Position | None = None  # known after the first mark
        self.count = 0
        self.whole = False  # the last mark was seen and its count is right
        self._last: tuple[int, bytes] = (0, b"")

    def take(self, entry: Entry) -> Part:
        """Place the next unsealed entry. Raises BrokenSnapshot; after that the snapshot is worthless."""
        if self.whole:
            raise BrokenSnapshot("the snapshot goes on behind its end")
        if self.position is None:
            return self._begin(entry)
        if entry.incarnation != self.position.incarnation:
            raise BrokenSnapshot("the snapshot mixes incarnations")
        return self._end(entry, self.position) if entry.kind is EntryKind.NOTHING else self._record(entry)

    def _begin(self, entry: Entry) -> Part:
        if (entry.kind, entry.key) != (EntryKind.NOTHING, BEGIN):
            raise BrokenSnapshot("the snapshot has no beginning")
        self.position = Position(entry.incarnation, entry.seq)
        return Part.BEGIN

    def _record(self, entry: Entry) -> Part:
        place = (int(entry.kind), entry.key)
        if place <= self._last:
            raise BrokenSnapshot("the snapshot is out of order")
        self._last = place
        self.count += 1
        return Part.RECORD

    def _end(self, entry: Entry, position: Position) -> Part:
        count = msgspec.msgpack.encode(self.count)
        if (entry.key, entry.seq, entry.record) != (END, position.seq, count):
            raise BrokenSnapshot("the snapshot does not end as it should")
        self.whole = True
        return Part.END
