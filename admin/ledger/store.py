"""The ledger's ports: what a back end must do. One contract suite holds every back end to it.

`LedgerReader` is the read-only half; whoever only reports gets that one. The structs cannot form cycles, so the
garbage collector need not walk them (`gc=False`): thousands are alive while a batch is written.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, EntryKind, Position


class Personal(msgspec.Struct, frozen=True, gc=False):
    """Fields about one person: encrypted under that person's own key, erasable by destroying the key."""

    person_id: str  # pseudonymous; who it is stands only inside `plaintext`
    plaintext: bytes


class FeedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an event means to engines: the record of `key` after it."""

    kind: EntryKind
    key: bytes
    record: bytes


class Idempotency(msgspec.Struct, frozen=True, gc=False):
    """A caller's own key for a write. body_digest: SHA-256 over the request, so that another body is noticed."""

    client_id: str
    key: str
    body_digest: bytes


class Append(msgspec.Struct, frozen=True, gc=False):
    """One event to append. subject: what it is about, e.g. `consent:<uuid>`, `participant:<client_id>`."""

    subject: str
    tag: str  # past tense: `consent.granted`
    expected_version: int  # of the subject before this event; 0 = it must be new
    body: bytes  # MessagePack of the event's public part
    personal: Personal | None = None
    feed: FeedRecord | None = None  # None: engines get an empty entry


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the ledger; `admin.ledger.chain` says what its hash covers."""

    position: Position
    subject: str
    tag: str
    version: int  # of the subject after this event
    recorded_at: UnixTime
    body: bytes
    person_id: str | None
    ciphertext: bytes | None
    feed: FeedRecord | None
    previous_hash: bytes
    hash: bytes

    def entry(self) -> Entry:
        """The feed entry of this event, with its number, possibly empty."""
        feed = self.feed or FeedRecord(EntryKind.NOTHING, b"", b"")
        return Entry(self.position.incarnation, self.position.seq, feed.kind, feed.key, feed.record)


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """An acknowledged write. replayed: the idempotency key had been used with the same body before."""

    position: Position
    version: int
    committed_at: float  # seconds since 1970, before the commit returned
    replayed: bool = False


class Head(msgspec.Struct, frozen=True, gc=False):
    """The end of the ledger."""

    position: Position
    hash: bytes


class SubjectState(msgspec.Struct, frozen=True, gc=False):
    """The newest event of a subject."""

    subject: str
    version: int
    event: StoredEvent
    personal: bytes | None  # decrypted; None: there is none, or the person was erased
    floor: int = 0  # position of the ledger's own newest event where that is newer: a restore may lie between


class VersionConflict(Fault):
    """Somebody else wrote to the subject first."""

    kind = Kind.CONFLICT


class IdempotencyMismatch(Fault):
    """The idempotency key was used before with another request."""

    kind = Kind.CONFLICT


class LedgerUnavailable(Fault):
    """The database does not answer; whether a write was done can be asked by its idempotency key."""

    kind = Kind.UNAVAILABLE


class LedgerDamaged(Fault):
    """What the database has stored cannot be read any more; asking again does not help."""

    kind = Kind.BROKEN


class LedgerReader(Protocol):
    """Reading. A reader never sees event n + 1 before n."""

    async def head(self) -> Head: ...

    async def events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events with seq > after, in order, at most `limit`."""

    async def subject(self, subject: str) -> SubjectState | None: ...

    async def subjects(self, names: Sequence[str]) -> Sequence[SubjectState]:
        """The same of several, in no order; those that there are."""

    async def records(self, after: tuple[int, bytes], limit: int) -> Sequence[tuple[int, FeedRecord]]:
        """The newest feed record of each (kind, key) above `after`, ordered by (kind, key), each with its seq."""

    async def replayed(self, idempotency: Idempotency) -> Receipt | None:
        """The receipt of an earlier write under this key. Raises IdempotencyMismatch on another body."""


class Ledger(LedgerReader, Protocol):
    """Writing."""

    async def append(self, events: Sequence[Append], idempotency: Idempotency | None = None) -> Receipt:
        """Append all or none; returns after the commit, with the position and version of the last event.

        Raises VersionConflict, IdempotencyMismatch, LedgerUnavailable. A caller that is cancelled here does not
        undo the write: the idempotency key tells afterwards whether it was done.
        """

    async def wait_beyond(self, seq: int) -> None:
        """Return once the head may be above seq (a hint: read the head); returns at the latest after a second."""

    async def erase_person(self, person_id: str) -> bool:
        """Destroy the person's key. True if there was one. The chain stays whole."""
