"""Which of the queued writes are admitted, in which order, with which numbers and hashes. No database, no clock.

One `Admission` is one transaction's worth: it knows the head and the current versions as they were when the
write lock was taken, lets writes in one after another, and refuses those that come too late. A refusal leaves no
trace, so the writes around it are not spoiled.
"""

from collections.abc import Callable, Sequence

import msgspec

from admin.ledger.chain import link
from admin.ledger.store import Append, Head, Idempotency, IdempotencyMismatch, Receipt, VersionConflict
from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.feed.entries import Position

# The columns of `events`, in the order of the table.
EventRow = tuple[
    int, str, str, str, int, int, bytes, str | None, bytes | None, int | None, bytes | None, bytes | None, bytes, bytes
]
# client_id, key, body_digest, incarnation, seq, version, committed_at
ReceiptRow = tuple[str, str, bytes, str, int, int, float]
Seal = Callable[[Append, int], bytes]  # the event and its subject's version after it -> ciphertext


class InvalidWrite(Fault):
    """The write itself is wrong: empty, or with text that cannot be stored."""

    kind = Kind.INVALID


class Write(msgspec.Struct, frozen=True, gc=False):
    """What one call of `append` asks for: all of it or nothing."""

    events: tuple[Append, ...]
    idempotency: Idempotency | None = None


class Earlier(msgspec.Struct, frozen=True, gc=False):
    """What an idempotency key was used for."""

    body_digest: bytes
    receipt: Receipt

    def replay(self, idempotency: Idempotency) -> Receipt:
        """The same receipt again. Raises IdempotencyMismatch."""
        if self.body_digest != idempotency.body_digest:
            raise IdempotencyMismatch("the idempotency key was used before with another request")
        return msgspec.structs.replace(self.receipt, replayed=True)


def check(write: Write) -> None:
    """Refuse what no database could store, before it can spoil a batch. Raises InvalidWrite."""
    if not write.events:
        raise InvalidWrite("a write needs at least one event")
    for event in write.events:
        person_id = event.personal.person_id if event.personal else "-"
        if not (event.subject and event.tag and person_id and _is_storable(event.subject + event.tag + person_id)):
            raise InvalidWrite("a subject, tag or person is empty or holds characters that cannot be stored")
    if write.idempotency and not _is_storable(write.idempotency.client_id + write.idempotency.key):
        raise InvalidWrite("the idempotency key holds characters that cannot be stored")


class Admission:
    """Lets writes in. `rows` and `receipts` are what is to be stored; `head` moves along."""

    def __init__(
        self,
        head: Head,
        versions: dict[str, int],
        earlier: dict[tuple[str, str], Earlier],
        seal: Seal,
        now: UnixTime,
        committed_at: float,
    ) -> None:
        self.rows: list[EventRow] = []
        self.receipts: list[ReceiptRow] = []
        self._incarnation = head.position.incarnation
        self._seq = head.position.seq
        self._hash = head.hash
        self._versions = versions
        self._earlier = earlier
        self._seal = seal
        self._now = now
        self._committed_at = committed_at

    @property
    def head(self) -> Head:
        """The end of the ledger once `rows` are stored."""
        return Head(Position(self._incarnation, self._seq), self._hash)

    def admit(self, write: Write) -> Receipt:
        """Give the write its numbers. Raises VersionConflict, IdempotencyMismatch."""
        idempotency = write.idempotency
        if idempotency is not None:
            earlier = self._earlier.get((idempotency.client_id, idempotency.key))
            if earlier is not None:
                return earlier.replay(idempotency)
        self._raise_versions(write.events)
        for event in write.events:
            self._append(event)
        receipt = Receipt(
            Position(self._incarnation, self._seq), write.events[-1].expected_version + 1, self._committed_at
        )
        if idempotency is not None:
            self._remember(idempotency, receipt)
        return receipt

    def _raise_versions(self, events: Sequence[Append]) -> None:
        if len(events) == 1:
            versions = self._versions
        else:
            versions = {event.subject: self._versions.get(event.subject, 0) for event in events}
        for event in events:
            if versions.get(event.subject, 0) != event.expected_version:
                raise VersionConflict("it was changed by somebody else meanwhile", detail=event.subject)
            versions[event.subject] = event.expected_version + 1
        if versions is not self._versions:
            self._versions.update(versions)

    def _append(self, event: Append) -> None:
        seq, version, previous = self._seq + 1, event.expected_version + 1, self._hash
        personal, feed = event.personal, event.feed
        said = (
            seq,
            self._incarnation,
            event.subject,
            event.tag,
            version,
            self._now,
            event.body,
            None if personal is None else personal.person_id,
            None if personal is None else self._seal(event, version),
            None if feed is None else int(feed.kind),
            None if feed is None else feed.key,
            None if feed is None else feed.record,
        )
        self._hash = link(previous, said)
        self._seq = seq
        self.rows.append((*said, previous, self._hash))

    def _remember(self, idempotency: Idempotency, receipt: Receipt) -> None:
        key = (idempotency.client_id, idempotency.key)
        self._earlier[key] = Earlier(idempotency.body_digest, receipt)
        position = receipt.position
        self.receipts.append(
            (*key, idempotency.body_digest, position.incarnation, position.seq, receipt.version, self._committed_at)
        )


def _is_storable(text: str) -> bool:
    """PostgreSQL takes no NUL, and nobody takes half a surrogate pair."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
