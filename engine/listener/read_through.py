"""Consents that are newer than this worker's replica, read from Redis for one request and stored nowhere.

A record counts only if it is sealed by us, for this very key, in the replica's incarnation, at a position above
what the transaction had applied: anything else is older than the replica, or forged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from engine.consent.records import ConsentKey, ConsentRecord
from engine.decision.freshness import Bound
from engine.errors import Fault
from engine.feed.entries import Entry, EntryKind, ForgedEntry, unseal
from engine.feed.redis_commands import Executor, mget
from engine.feed.redis_names import record_key

_consent = msgspec.msgpack.Decoder(ConsentRecord).decode

Found = Mapping[ConsentKey, Entry]


class ReadThrough(Protocol):
    """Finds sealed consent records beyond the replica."""

    async def find(self, keys: Sequence[ConsentKey]) -> Found:
        """The entries that are there, their seals checked. Raises Fault when nobody can be asked."""


class RedisReadThrough:
    """From the records that the projector keeps in Redis. mac_keys: newest first. forged: called for each forgery."""

    def __init__(
        self, redis: Executor, mac_keys: tuple[bytes, ...], forged: Callable[[], object] = lambda: None
    ) -> None:
        self._redis = redis
        self._mac_keys = mac_keys
        self._forged = forged

    async def find(self, keys: Sequence[ConsentKey]) -> Found:
        """One MGET. A record that is not sealed by us counts as absent. Raises RedisFault."""
        sealed = await mget(self._redis, [record_key(EntryKind.CONSENT, key) for key in keys])
        entries = ((key, self._open(key, raw)) for key, raw in zip(keys, sealed, strict=True) if raw is not None)
        return {key: entry for key, entry in entries if entry is not None}

    def _open(self, key: ConsentKey, sealed: bytes) -> Entry | None:
        try:
            entry = unseal(sealed, self._mac_keys)
        except ForgedEntry:
            self._forged()
            return None
        if entry.kind is EntryKind.CONSENT and entry.key == key:
            return entry
        self._forged()  # a genuine one in another's place
        return None


class NoReadThrough:
    """For a node that has no Redis: nobody can be asked."""

    async def find(self, keys: Sequence[ConsentKey]) -> Found:
        """Raises Fault."""
        raise Fault(f"there is no Redis to read {len(keys)} consents from")


def newer_consent(found: Found, key: ConsentKey, bound: Bound | None) -> ConsentRecord | None:
    """The consent that Redis has and this transaction has not; None = nothing that may be used."""
    entry = found.get(key)
    if entry is None or bound is None or entry.incarnation != bound.incarnation or entry.seq <= bound.applied:
        return None
    try:
        return _consent(entry.record)
    except msgspec.MsgspecError:
        return None
