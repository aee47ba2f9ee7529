"""How the rows of a receiver's file are sealed, and what is summed up.

In the sum are what may never go missing unseen: the facts, each event that is still to be applied, each that is noted
as ahead of a hole. The head holds the sum and where the chain stands. An event that was applied is in no sum: what is
left of it is told by a tag of its own to be the guard's, and that it is gone changes nothing.
"""

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from engine.guard.anchor import MARK_BYTES
from engine.guard.sealing import Place, Sort, StoreKey, Unsealed, added
from engine.guard.table import StoreDamaged

_DIGEST: Final = 32
_EARLY: Final = (0, 1)  # ranks of events
_FACTS: Final = Place(b"facts", 2, 0)
_AHEAD_RANK: Final = 3
_HEAD: Final = Place(b"head", 4, 0)
_AT_ONCE: Final = 1_000

_encode: Final = msgspec.msgpack.Encoder().encode


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Stored: a new field goes to the end and has a default. mark: see `engine.guard.anchor`. total: of 32 bytes."""

    mark: bytes = bytes(MARK_BYTES)
    total: bytes = bytes(32)
    last_seq: int = 0
    beyond: int = 0


_heads: Final = msgspec.msgpack.Decoder(Head)


def sealed_head(key: StoreKey, head: Head) -> bytes:
    """See `opened_head`."""
    return key.seal(Sort.HEAD, _HEAD, _encode(head))


def opened_head(key: StoreKey, sealed: bytes) -> Head:
    """Raises Unsealed, StoreDamaged."""
    try:
        return _heads.decode(key.open(Sort.HEAD, _HEAD, sealed))
    except msgspec.MsgspecError as error:
        raise StoreDamaged("the head of the file of events has another form") from error


def sealed_facts(key: StoreKey, facts: bytes) -> tuple[bytes, int]:
    """With its share in the sum."""
    sealed = key.seal(Sort.EVENT_FACTS, _FACTS, facts)
    return sealed, key.share(_FACTS, sealed)


def opened_facts(key: StoreKey, sealed: bytes) -> tuple[bytes, int]:
    """With their share in the sum. Raises Unsealed."""
    return key.open(Sort.EVENT_FACTS, _FACTS, sealed), key.share(_FACTS, sealed)


def sealed_event(key: StoreKey, jti: str, seq: int, compact: bytes, *, early: bool) -> tuple[bytes, int]:
    """An event that is to be applied, with its share in the sum."""
    place = Place(jti.encode(), int(early), seq)
    sealed = key.seal(Sort.EVENT, place, compact)
    return sealed, key.share(place, sealed)


def opened_event(key: StoreKey, row: Any) -> tuple[bytes, int]:  # noqa: ANN401 - sqlite3 has no types for rows
    """row: jti, seq, early, sealed. With its share in the sum. Raises Unsealed, StoreDamaged."""
    place, sealed = _place(row)
    return key.open(Sort.EVENT, place, sealed), key.share(place, sealed)


def event_share(key: StoreKey, row: Any) -> int:  # noqa: ANN401 - as above
    """What an event that is to be applied adds to the sum. Raises StoreDamaged."""
    return key.share(*_place(row))


def ahead_share(key: StoreKey, seq: int, prev: int) -> int:
    """What an event ahead of a hole adds to the sum."""
    return key.share(Place(prev.to_bytes(8, "big"), _AHEAD_RANK, seq), b"")


def tagged(key: StoreKey, jti: str, digest: bytes) -> bytes:
    """The digest of an event's claims and 16 bytes that nobody else can put to it."""
    return digest + key.hidden(Sort.EVENT, jti.encode() + digest)


def untagged(key: StoreKey, jti: object, stored: object) -> bytes:
    """The digest. Raises Unsealed: the guard never kept such an event."""
    if isinstance(jti, str) and isinstance(stored, bytes):
        digest = stored[:_DIGEST]
        if tagged(key, jti, digest) == stored:
            return digest
    raise Unsealed("an event that was never kept stands in the file of events")


def total_of(db: sqlite3.Connection, key: StoreKey, facts: int) -> int:
    """The sum as the rows are; each is opened. facts: their share. Raises Unsealed, StoreDamaged, sqlite3.Error."""
    total = facts
    for row in db.execute(
        "SELECT jti, seq, early, compact FROM events INDEXED BY events_unapplied WHERE compact IS NOT NULL"
    ):
        total = added(total, opened_event(key, row)[1])
    return added(total, _all_ahead(db, key))


def reseal(db: sqlite3.Connection, old: StoreKey, new: StoreKey, facts: int) -> int:
    """All events under another key; the sum. facts: their share, under the new key. Within a transaction.

    Raises Unsealed, StoreDamaged, sqlite3.Error.
    """
    total = facts
    for jti, digest, seq, early, compact in _all_events(db):
        sealed = None
        if compact is not None:
            sealed, share = sealed_event(
                new, jti, seq, opened_event(old, (jti, seq, early, compact))[0], early=bool(early)
            )
            total = added(total, share)
        stored = tagged(new, jti, untagged(old, jti, digest))
        db.execute("UPDATE events SET digest = ?, compact = ? WHERE jti = ?", (stored, sealed, jti))
    return added(total, _all_ahead(db, new))


def _all_ahead(db: sqlite3.Connection, key: StoreKey) -> int:
    total = 0
    for seq, prev in db.execute("SELECT seq, prev FROM ahead"):
        if not (isinstance(seq, int) and isinstance(prev, int) and 0 <= prev < seq):  # damage knows no tables
            raise StoreDamaged("a row of the file of events has another form")
        total = added(total, ahead_share(key, seq, prev))
    return total


def _all_events(db: sqlite3.Connection) -> Iterator[Any]:
    """By the thousand, so that rows may be changed meanwhile."""
    last = ""
    while rows := db.execute(
        "SELECT jti, digest, seq, early, compact FROM events WHERE jti > ? ORDER BY jti LIMIT ?", (last, _AT_ONCE)
    ).fetchall():
        yield from rows
        last = rows[-1][0]


def _place(row: Any) -> tuple[Place, bytes]:  # noqa: ANN401 - as above
    jti, seq, early, sealed = row
    if not (isinstance(jti, str) and isinstance(seq, int) and isinstance(sealed, bytes) and early in _EARLY):
        raise StoreDamaged("a row of the file of events has another form")
    return Place(jti.encode(), early, seq), sealed
