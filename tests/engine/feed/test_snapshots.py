"""A snapshot is whole or it is nothing."""

import pytest

from engine.feed.entries import Entry, EntryKind, Position
from engine.feed.snapshots import BrokenSnapshot, Part, SnapshotCheck, begin_mark, end_mark

AT = Position("0123456789abcdef", 7)


def record(key: bytes, kind: EntryKind = EntryKind.CONSENT, seq: int = 3, incarnation: str = AT.incarnation) -> Entry:
    return Entry(incarnation, seq, kind, key, b"r")


def follow(*entries: Entry) -> SnapshotCheck:
    check = SnapshotCheck()
    for entry in entries:
        check.take(entry)
    return check


def test_a_whole_snapshot_names_its_position_and_count() -> None:
    check = follow(begin_mark(AT), record(b"a"), record(b"b"), record(b"a", EntryKind.POLICY), end_mark(AT, 3))
    assert (check.whole, check.position, check.count) == (True, AT, 3)


def test_an_empty_snapshot_is_whole() -> None:
    assert follow(begin_mark(AT), end_mark(AT, 0)).whole


def test_parts_are_told_apart() -> None:
    check = SnapshotCheck()
    parts = [check.take(entry) for entry in (begin_mark(AT), record(b"a"), end_mark(AT, 1))]
    assert parts == [Part.BEGIN, Part.RECORD, Part.END]


def test_a_record_newer_than_the_snapshot_is_taken() -> None:
    assert follow(begin_mark(AT), record(b"a", seq=AT.seq + 5), end_mark(AT, 1)).whole


def test_a_snapshot_without_its_end_is_not_whole() -> None:
    assert not follow(begin_mark(AT), record(b"a")).whole


@pytest.mark.parametrize(
    "entries",
    [
        [record(b"a")],
        [end_mark(AT, 0)],
        [begin_mark(AT), begin_mark(AT)],
        [begin_mark(AT), record(b"b"), record(b"a")],
        [begin_mark(AT), record(b"a"), record(b"a")],
        [begin_mark(AT), record(b"a", incarnation="f" * 16)],
        [begin_mark(AT), record(b"a"), end_mark(AT, 2)],
        [begin_mark(AT), end_mark(Position(AT.incarnation, AT.seq + 1), 0)],
        [begin_mark(AT), end_mark(AT, 0), record(b"a")],
    ],
    ids=["headless", "end-first", "two-begins", "order", "twice", "incarnation", "count", "position", "behind-end"],
)
def test_what_does_not_belong_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(BrokenSnapshot):
        follow(*entries)
