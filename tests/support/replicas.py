"""Entries and replicas for tests."""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from engine.clock import BootTime, UnixTime
from engine.consent.records import (
    POLICY_KEY,
    AccessMode,
    Certificate,
    ClientId,
    ConsentKey,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    Role,
    Thumbprint,
    TokenRevocation,
)
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind, Position, seal
from engine.feed.snapshots import begin_mark, end_mark
from engine.replica.store import ReplicaStore

INCARNATION = "00000000000000a1"
OTHER_INCARNATION = "00000000000000b2"
BOOT = "11111111-1111-4111-8111-111111111111"
OTHER_BOOT = "22222222-2222-4222-8222-222222222222"
MAC_KEY = b"m" * 32
MAP_SIZE = 1 << 28
NOW = UnixTime(1_800_000_000)


def consent_key(number: int) -> ConsentKey:
    return ConsentKey(uuid.UUID(int=number).bytes)


def consent(state: State = State.ACTIVE, *, version: int = 1, expires_at: int = NOW + 86_400) -> ConsentRecord:
    return ConsentRecord(
        state=state,
        consent_version=version,
        atp=ClientId("atp-bright"),
        dataset_id="half-hourly-consumption",
        access_mode=AccessMode.ENDURING,
        granted_at=UnixTime(NOW - 86_400),
        expires_at=UnixTime(expires_at),
        data_from=UnixTime(NOW - 86_400),
        data_to=None,
        meter_digests=(b"d" * 16,),
        edps=(ClientId("edp-north"),),
    )


def thumbprint(name: str) -> Thumbprint:
    return Thumbprint(hashlib.sha256(name.encode()).digest())


def participant(client_id: str, *certificates: str, suspended: bool = False) -> ParticipantRecord:
    return ParticipantRecord(
        client_id=ClientId(client_id),
        role=Role.EDP,
        suspended=suspended,
        certificates=tuple(Certificate(thumbprint(name), UnixTime(NOW + 86_400)) for name in certificates),
    )


def entry(seq: int, kind: EntryKind, key: bytes, record: msgspec.Struct, *, incarnation: str = INCARNATION) -> Entry:
    return Entry(incarnation, seq, kind, key, msgspec.msgpack.encode(record))


def nothing(seq: int, *, incarnation: str = INCARNATION) -> Entry:
    return Entry(incarnation, seq, EntryKind.NOTHING)


def consent_entry(
    seq: int, number: int, record: ConsentRecord | None = None, *, incarnation: str = INCARNATION
) -> Entry:
    return entry(seq, EntryKind.CONSENT, consent_key(number), record or consent(), incarnation=incarnation)


def participant_entry(seq: int, record: ParticipantRecord) -> Entry:
    return entry(seq, EntryKind.PARTICIPANT, record.client_id.encode(), record)


def policy_entry(seq: int, record: PolicyRecord) -> Entry:
    return entry(seq, EntryKind.POLICY, POLICY_KEY, record)


def revocation_entry(seq: int, key: bytes, expires_at: int) -> Entry:
    return entry(seq, EntryKind.TOKEN_REVOCATION, key, TokenRevocation(UnixTime(expires_at)))


def bound(applied: int, *, incarnation: str = INCARNATION) -> Bound:
    return Bound(incarnation, applied, "", BootTime(0.0), UnixTime(0))


def snapshot_of(position: Position, entries: Iterable[Entry], key: bytes = MAC_KEY) -> list[bytes]:
    """The sealed entries of a snapshot, marks included, in the order of the feed service."""
    newest: dict[tuple[int, bytes], Entry] = {}
    for item in entries:
        if item.kind is not EntryKind.NOTHING:
            newest[(int(item.kind), item.key)] = item
    ordered = [newest[place] for place in sorted(newest)]
    marked = [begin_mark(position), *ordered, end_mark(position, len(ordered))]
    return [seal(item, key) for item in marked]


def open_store(directory: Path, *, boot_id: str = BOOT, map_size: int = MAP_SIZE) -> ReplicaStore:
    return ReplicaStore(directory, map_size=map_size, boot_id=boot_id)


def filled(store: ReplicaStore, entries: Sequence[Entry] = ()) -> ReplicaStore:
    """Give a store its first generation, at position 0, and apply entries to it."""
    generation = store.begin_generation()
    generation.seal(bound(0))
    store.adopt(generation)
    if entries:
        store.apply(entries, bound(entries[-1].seq))
    return store
