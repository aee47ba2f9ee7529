"""Sealed rows by their names, with a sum over all of them in a head that every transaction writes.

Each row is checked when it is read; all of them together when the file is opened: a row that is missing, was added, or
is from an earlier time changes the sum. The head holds the mark that the anchor knows (`engine.guard.anchor`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.guard.anchor import MARK_BYTES
from engine.guard.sealing import Place, Sort, StoreKey, Unsealed, added
from engine.guard.table import Row, StoreDamaged, Table

HEAD_NAME: Final = b"head"
HEAD_RANK: Final = 15
KEY_CHECK: Final = "key"
FORM_NAME: Final = "form"
FORM_VALUE: Final = b"ccs.guard.memory.1"


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What is known of the store as a whole. Stored: a new field goes to the end and has a default.

    floor: what was true then or before may have ended since, and that word is lost. latest_use: until when the longest
    usable of all answers ever kept may be used. rested_at, newest, lost_until: see `engine.guard.memory`.
    """

    mark: bytes
    total: bytes  # the sum over all rows but this one, 32 bytes
    floor: UnixTime = UnixTime(0)
    missing_since: UnixTime | None = None
    latest_use: UnixTime = UnixTime(0)
    rested_at: UnixTime = UnixTime(0)
    newest: UnixTime = UnixTime(0)
    lost_until: UnixTime = UnixTime(0)


_encode: Final = msgspec.msgpack.Encoder().encode
_heads: Final = msgspec.msgpack.Decoder(Head)


class OtherKey(StoreDamaged):
    """Sealed with another key, or for another EDP."""


class SealedTable:
    """Rows by sort and name. One thread at a time."""

    def __init__(self, table: Table, key: StoreKey, head: Head) -> None:
        self.table = table
        self.head = head
        self.key = key
        self._total = int.from_bytes(head.total, "big")

    @classmethod
    def create(cls, table: Table, key: StoreKey, head: Head) -> "SealedTable":
        """An empty one, in a table made with `clear_words`."""
        made = cls(table, key, head)
        with table.transaction(durable=True):
            made._write_head()
        return made

    @classmethod
    def open(cls, table: Table, key: StoreKey) -> "SealedTable":
        """Open and check every row. Takes some microseconds a row. Raises OtherKey, StoreDamaged, Unsealed."""
        clear = table.clear()
        if clear.get(FORM_NAME) != FORM_VALUE or KEY_CHECK not in clear:
            raise StoreDamaged("the file is no guard's store")
        if clear[KEY_CHECK] != key.check:
            raise OtherKey(f"{table.path} was sealed with another key, or for another EDP")
        row = table.read(_head_place(key).key)
        if row is None:
            raise StoreDamaged("the store has no head")
        opened = cls(table, key, _read_head(key, row))
        opened._check_all()
        return opened

    def _check_all(self) -> None:
        head, total = _head_place(self.key).key, 0
        for row in self.table.rows():
            if row.place.key != head:
                total = added(total, self.key.share(row.place, row.sealed))
        if total != self._total:
            raise Unsealed("rows of the store are missing, too many, or from another time")

    def get(self, sort: Sort, name: bytes) -> bytes | None:
        """The record under a name. Raises Unsealed, StoreDamaged."""
        row = self.table.read(self.key.hidden(sort, name))
        return None if row is None else self._open(sort, row, name)

    def rows_after(self, rank: int, due: int, count: int) -> list[Row]:
        """The next rows of a rank; see `opened`."""
        return self.table.after(rank, due, count)

    def rank(self, sort: Sort, name: bytes) -> int | None:
        """Under which rank a record stands."""
        row = self.table.read(self.key.hidden(sort, name))
        return None if row is None else row.place.rank

    def put(self, sort: Sort, name: bytes, record: bytes, *, rank: int, due: int) -> int | None:
        """Keep a record in place of what stands under its name; that one's rank. Within `writing`."""
        place = Place(self.key.hidden(sort, name), rank, due)
        row = Row(place, self.key.seal(sort, place, len(name).to_bytes(2, "big") + name + record))
        old = self.table.read(place.key)
        self.table.write(row)
        self._total = added(self._total, self._share(row), 0 if old is None else self._share(old))
        return None if old is None else old.place.rank

    def take_away(self, row: Row) -> None:
        """Within `writing`."""
        self.table.delete(row.place.key)
        self._total = added(self._total, 0, self._share(row))

    def opened(self, row: Row, *sorts: Sort) -> tuple[Sort, bytes, bytes]:
        """A row's sort, name and record, where only the row is at hand. Raises Unsealed."""
        for sort in sorts:
            try:
                plain = self.key.open(sort, row.place, row.sealed)
            except Unsealed:
                continue
            return sort, *_parted(plain)
        raise Unsealed("a record of the guard's is not what was kept there")

    @contextmanager
    def writing(self, *, durable: bool) -> Iterator[None]:
        """One transaction: all that is put inside, or nothing where it raises. Not to be nested."""
        head, total = self.head, self._total
        try:
            with self.table.transaction(durable=durable):
                yield
                self._write_head()
        except BaseException:
            self.head, self._total = head, total
            raise

    def set_head(
        self,
        *,
        mark: bytes | None = None,
        floor: UnixTime | None = None,
        latest_use: UnixTime | None = None,
        rested_at: UnixTime | None = None,
        newest: UnixTime | None = None,
    ) -> None:
        """Change what is said of the whole. Within `writing`, which writes it."""
        head = self.head
        self.head = msgspec.structs.replace(
            head,
            mark=head.mark if mark is None else mark,
            floor=head.floor if floor is None else floor,
            latest_use=head.latest_use if latest_use is None else latest_use,
            rested_at=head.rested_at if rested_at is None else rested_at,
            newest=head.newest if newest is None else newest,
        )

    def set_missing(self, since: UnixTime | None) -> None:
        """Since when events are missing. Within `writing`."""
        self.head = msgspec.structs.replace(self.head, missing_since=since)

    def _write_head(self) -> None:
        self.head = msgspec.structs.replace(self.head, total=self._total.to_bytes(32, "big"))
        place = _head_place(self.key)
        self.table.write(Row(place, self.key.seal(Sort.HEAD, place, _encode(self.head))))

    def _open(self, sort: Sort, row: Row, name: bytes) -> bytes:
        found, record = _parted(self.key.open(sort, row.place, row.sealed))
        if found != name:
            raise Unsealed("a record of the guard's is not what was kept there")
        return record

    def _share(self, row: Row) -> int:
        return self.key.share(row.place, row.sealed)


def clear_words(key: StoreKey) -> dict[str, bytes]:
    """What stands readable in a store's file."""
    return {FORM_NAME: FORM_VALUE, KEY_CHECK: key.check}


def fresh_head(floor: UnixTime, missing_since: UnixTime | None) -> Head:
    """Of a store that knows nothing, with a mark of its own."""
    return Head(os.urandom(MARK_BYTES), bytes(32), floor, missing_since)


def _head_place(key: StoreKey) -> Place:
    return Place(key.hidden(Sort.HEAD, HEAD_NAME), HEAD_RANK, 0)


def _read_head(key: StoreKey, row: Row) -> Head:
    if row.place != _head_place(key):
        raise Unsealed("the store's head is not where it was")
    try:
        return _heads.decode(key.open(Sort.HEAD, row.place, row.sealed))
    except msgspec.MsgspecError as error:
        raise StoreDamaged("the store's head has another form") from error


def _parted(plain: bytes) -> tuple[bytes, bytes]:
    length = 2 + int.from_bytes(plain[:2], "big")
    return plain[2:length], plain[length:]
