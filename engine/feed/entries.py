"""One feed entry: what a single ledger event means to engines, sealed so that Redis need not be trusted.

The sealed bytes are the same everywhere: as a member of the Redis stream, as the Redis record of its key, and
over HTTPS. The MAC covers incarnation, position, kind, key and record, so that nobody who can write to Redis
can make, change, move or re-number an entry. Redis can still withhold or roll back; positions and the freshness
protocol deal with that.
"""

import enum
import hashlib
import hmac
from typing import Final

import msgspec

from engine.errors import Fault, Kind

MAC_BYTES: Final = 16  # a truncated HMAC-SHA256: 128 bits, RFC 2104 section 5 allows half the hash


class EntryKind(enum.IntEnum):
    """Stored as its number: never renumber."""

    NOTHING = 0  # a ledger event that engines need not know: the entry keeps the numbering gap-free
    CONSENT = 1
    TOKEN_REVOCATION = 2
    PARTICIPANT = 3
    RECEIVER = 4
    POLICY = 5
    KEYS = 6  # verification keys changed: fetch them anew over HTTPS
    RECOVERY = 7  # the ledger was restored, or went live again (`consent.recovery`)
    DOUBT = 8  # a consent was touched in what a restored ledger has lost


class Position(msgspec.Struct, frozen=True, array_like=True, order=False):
    """A place in one ledger's life. Positions of different incarnations cannot be compared."""

    incarnation: str  # 16 lower-case hexadecimal digits
    seq: int  # 0 = before the first event


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """(incarnation, seq, kind, key, record); record is the MessagePack of a struct of `consent.records`."""

    incarnation: str
    seq: int
    kind: EntryKind
    key: bytes = b""
    record: bytes = b""


class ForgedEntry(Fault):
    """Sealed bytes that no key of ours has sealed: corrupt, forged, or of another incarnation."""

    kind = Kind.BROKEN


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"ccs.feed.entry\x00" + body, hashlib.sha256)[:MAC_BYTES]


def seal(entry: Entry, key: bytes) -> bytes:
    """Encode an entry and put its MAC in front. key: at least 32 bytes."""
    body = _encode(entry)
    return _mac(body, key) + body


def unseal(sealed: bytes, keys: tuple[bytes, ...]) -> Entry:
    """Check and decode. keys: newest first, old ones stay valid until rotated out. Raises ForgedEntry."""
    mac, body = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(body, key)) for key in keys):
        raise ForgedEntry("a feed entry failed its check")
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise ForgedEntry("a feed entry could not be read", detail=str(error)) from error
