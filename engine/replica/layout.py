"""The bytes of a replica: what stands in which database of the LMDB file, shared by its writer and its readers.

Every value of a record database opens with the feed position that wrote it, so that the higher position wins
however often and in whatever order something is applied. The freshness bound has a fixed form of its own: it is
read in every request and written ten times a second.
"""

import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from engine.clock import BootTime, UnixTime
from engine.consent.recovery import Past, past_of
from engine.decision.freshness import Bound
from engine.errors import Fault, Kind

FORMAT: Final = b"1"  # another number in a file means: throw it away and take a snapshot

CONSENTS: Final = b"consents"  # ConsentKey -> stamped ConsentRecord
PARTICIPANTS: Final = b"participants"  # client_id -> stamped ParticipantRecord
THUMBPRINTS: Final = b"thumbprints"  # certificate thumbprint -> client_id
TOKEN_REVOCATIONS: Final = b"token-revocations"  # revocation key -> stamped TokenRevocation
POLICY: Final = b"policy"  # POLICY_KEY -> stamped PolicyRecord
META: Final = b"meta"  # the keys below
RECOVERY: Final = b"recovery"  # incarnation that ended -> stamped RestoreRecord; LIVE_KEY -> stamped LiveRecord
DOUBTS: Final = b"doubts"  # ConsentKey -> stamped DoubtRecord
DATABASES: Final = (CONSENTS, PARTICIPANTS, THUMBPRINTS, TOKEN_REVOCATIONS, POLICY, META, RECOVERY, DOUBTS)

FORMAT_KEY: Final = b"format"
BOUND_KEY: Final = b"bound"
KEYS_KEY: Final = b"keys"  # the verification keys as `/feed/keys` gave them, JSON

STAMP_BYTES: Final = 6  # 2^48 events: 1,000 a second for 8,900 years

# moved, incarnation, applied, boot id, fresh_until, as_of; text is ASCII, filled up with NUL
_BOUND: Final = struct.Struct(">B16sQ36sdq")


class BrokenReplica(Fault):
    """The file's bytes make no sense; the writer throws it away and takes a snapshot."""

    kind = Kind.BROKEN


def stamp(seq: int, record: bytes) -> bytes:
    """The stored form of a record that the entry at seq brought."""
    return seq.to_bytes(STAMP_BYTES, "big") + record


def stamped_at(value: bytes) -> int:
    """The position of the entry that wrote a value."""
    return int.from_bytes(value[:STAMP_BYTES], "big")


def past_in(items: Iterable[tuple[bytes, bytes]]) -> Past:
    """The ledger's restores, from the items of RECOVERY. Raises BrokenReplica."""
    try:
        return past_of((stamped_at(value), key, value[STAMP_BYTES:]) for key, value in items)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BrokenReplica("a restore's record cannot be read", detail=str(error)) from error


def pack_bound(bound: Bound, *, moved: bool = False) -> bytes:
    """The bound's fixed form. moved: this file has been replaced by a newer one; look for that."""
    if len(bound.incarnation) > 16 or len(bound.boot_id) > 36:  # struct would cut them silently
        raise BrokenReplica("an incarnation or boot id is too long to be stored")
    return _BOUND.pack(
        moved,
        bound.incarnation.encode("ascii"),
        bound.applied,
        bound.boot_id.encode("ascii"),
        bound.fresh_until,
        bound.as_of,
    )


def unpack_bound(raw: bytes) -> tuple[Bound, bool]:
    """(bound, moved) of a fixed form. Raises BrokenReplica."""
    try:
        moved, incarnation, applied, boot_id, fresh_until, as_of = _BOUND.unpack(raw)
        bound = Bound(_text(incarnation), applied, _text(boot_id), BootTime(fresh_until), UnixTime(as_of))
    except (struct.error, UnicodeDecodeError) as error:
        raise BrokenReplica("the replica's freshness bound cannot be read", detail=str(error)) from error
    return bound, bool(moved)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("ascii")
