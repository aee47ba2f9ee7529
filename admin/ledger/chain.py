"""The chain: the canonical bytes of an event, and the hash that ties it to its predecessor. Pure.

Everything that an event says is covered: its place, subject, version, time, public body, person, ciphertext and
feed record. Ciphertext, not plaintext, so that erasing a person's key breaks nothing. The form is MessagePack
in its shortest encodings, which is one form only; it starts with its own name, so that a later form cannot be
mistaken for this one. Stored hashes rest on it: never change it, add a form.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from admin.ledger.events import LedgerRestored, UnreadableEvent, decode
from admin.ledger.store import StoredEvent

FORM: Final = "ccs.ledger.event.1"
RESTORED: Final = "ledger.restored"
NO_HASH: Final = bytes(32)  # what the first event of a ledger has for a predecessor

_encode = msgspec.msgpack.Encoder().encode


# seq, incarnation, subject, tag, version, recorded_at, body, person_id, ciphertext, feed kind, key and record
Said = tuple[
    int, str, str, str, int, int, bytes, str | None, bytes | None, int | None, bytes | None, bytes | None
]  # fmt: skip


def canonical(said: Said) -> bytes:
    """The bytes of what an event says."""
    return _encode((FORM, *said))


def link(previous_hash: bytes, said: Said) -> bytes:
    """The hash of an event: SHA-256 over its predecessor's hash and its own canonical bytes; 32 bytes."""
    return hashlib.sha256(previous_hash + canonical(said)).digest()


def said_by(event: StoredEvent) -> Said:
    """The event's fields, in the order in which they are covered and stored."""
    kind, key, record = (None, None, None) if event.feed is None else msgspec.structs.astuple(event.feed)
    return (
        event.position.seq,
        event.position.incarnation,
        event.subject,
        event.tag,
        event.version,
        event.recorded_at,
        event.body,
        event.person_id,
        event.ciphertext,
        None if kind is None else int(kind),
        key,
        record,
    )


def hash_of(event: StoredEvent) -> bytes:
    """What the event's hash should be, taking its word for its predecessor's."""
    return link(event.previous_hash, said_by(event))


class Break(msgspec.Struct, frozen=True):
    """The first entry that is wrong, and what is wrong with it."""

    seq: int
    what: str


class Walk:
    """Walks a chain from its first event; feed it events in the order of their numbers.

    A new incarnation may leave numbers out (it continues above any position ever reported), and only its first
    event may do so: a `ledger.restored` that names the event before it and the numbers it leaves out.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.hash = NO_HASH
        self.incarnation: str | None = None

    def first_break(self, events: Iterable[StoredEvent]) -> Break | None:
        """Take the next events; None when all of them fit."""
        for event in events:
            what = self._fault_in(event)
            if what is not None:
                return Break(event.position.seq, what)
            self.seq, self.hash = event.position.seq, event.hash
            self.incarnation = event.position.incarnation
        return None

    def _fault_in(self, event: StoredEvent) -> str | None:
        what = self._fault_in_place(event)
        if what is not None:
            return what
        if event.hash != hash_of(event):
            return "its contents do not match its hash"
        return None if event.previous_hash == self.hash else "it does not continue from its predecessor"

    def _fault_in_place(self, event: StoredEvent) -> str | None:
        restored = event.tag == RESTORED
        if event.position.seq <= self.seq:
            return "its number is out of order"
        if restored and not self._begins_anew(event):
            return "it says that the ledger was restored, and does not follow on what it says was kept"
        if event.position.seq != self.seq + 1 and not restored:
            return f"events {self.seq + 1} to {event.position.seq - 1} are missing before it"
        if self.incarnation not in {None, event.position.incarnation} and not restored:
            return "its incarnation is not that of its predecessor"
        return None

    def _begins_anew(self, event: StoredEvent) -> bool:
        """Whether it is a new incarnation that names its predecessor, and stands above all that was reported."""
        try:
            said = decode(event.body)
        except UnreadableEvent:
            return False
        if not isinstance(said, LedgerRestored) or self.incarnation in {None, event.position.incarnation}:
            return False
        follows = (said.previous_incarnation, said.restored_seq) == (self.incarnation, self.seq)
        return follows and self.seq <= said.reported_seq < event.position.seq
