"""One append transaction, start to end, in a thread: lock the head, look up, admit, store.

Whatever happens inside, the outcome of each write is known only once the caller's transaction has committed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from admin.ledger.admission import Admission, Earlier, Write
from admin.ledger.bulk import Bulk, bulk_for
from admin.ledger.checkpoints import CheckpointSigner, sign_checkpoint
from admin.ledger.personal import PersonKey, Safe
from admin.ledger.schema import checkpoints
from admin.ledger.store import Append, Head, Receipt
from engine.clock import UnixTime
from engine.errors import Fault
from engine.feed.entries import Position

Outcome = Receipt | Fault


class Transaction:
    """What every append transaction of one process has in common."""

    def __init__(
        self,
        safe: Safe,
        signer: CheckpointSigner,
        now: Callable[[], UnixTime],
        wall: Callable[[], float],
        checkpoint_every: int,
    ) -> None:
        """now, wall: the same clock in whole seconds and with fraction. checkpoint_every: events."""
        self._safe = safe
        self._signer = signer
        self._now = now
        self._wall = wall
        self._every = checkpoint_every

    def append(self, connection: sa.Connection, writes: Sequence[Write]) -> list[Outcome]:
        """Admit the writes in order; one outcome each, in their order. Raises NoLedger and the database's errors."""
        bulk = bulk_for(connection)
        before = bulk.lock_head()
        persons = _Persons(bulk, self._safe, writes)
        admission = Admission(
            before, _versions(bulk, writes), _earlier(bulk, writes), persons.seal, self._now(), self._wall()
        )
        outcomes = [_outcome(admission, write) for write in writes]
        if admission.rows:
            self._store(connection, bulk, admission, persons, before)
        return outcomes

    def checkpoint(self, connection: sa.Connection) -> None:
        """Vouch for the head as it is, unless that was done already."""
        head = bulk_for(connection).lock_head()
        done = sa.select(checkpoints.c.seq).where(
            checkpoints.c.incarnation == head.position.incarnation, checkpoints.c.seq == head.position.seq
        )
        if connection.execute(done).first() is None:
            self._vouch(connection, head)

    def _store(
        self, connection: sa.Connection, bulk: Bulk, admission: Admission, persons: "_Persons", before: Head
    ) -> None:
        head = admission.head
        bulk.insert_person_keys([(key.person_id, key.key_id, key.wrapped_key, self._now()) for key in persons.new])
        bulk.insert_events(admission.rows)
        bulk.insert_receipts(admission.receipts)
        bulk.advance(before.position.seq, head)
        if before.position.seq // self._every != head.position.seq // self._every:
            self._vouch(connection, head)

    def _vouch(self, connection: sa.Connection, head: Head) -> None:
        made = sign_checkpoint(self._signer, head, self._now())
        connection.execute(
            sa.insert(checkpoints).values(
                incarnation=made.incarnation,
                seq=made.seq,
                hash=made.hash,
                signed_at=made.signed_at,
                kid=made.kid,
                signature=made.signature,
            )
        )


class _Persons:
    """The keys of the persons in a batch; draws one for whoever has none."""

    def __init__(self, bulk: Bulk, safe: Safe, writes: Sequence[Write]) -> None:
        asked = {e.personal.person_id for write in writes for e in write.events if e.personal is not None}
        self._keys = bulk.person_keys(list(asked)) if asked else {}
        self._safe = safe
        self.new: list[PersonKey] = []

    def seal(self, event: Append, version: int) -> bytes:
        assert event.personal is not None  # noqa: S101 - only such events are sealed
        person_id = event.personal.person_id
        key = self._keys.get(person_id)
        if key is None:
            key = self._keys[person_id] = self._safe.new_key(person_id)
            self.new.append(key)
        return self._safe.seal(key, event.subject, version, event.personal.plaintext)


def _outcome(admission: Admission, write: Write) -> Outcome:
    try:
        return admission.admit(write)
    except Fault as refusal:
        return refusal


def _versions(bulk: Bulk, writes: Sequence[Write]) -> dict[str, int]:
    return bulk.versions(list({event.subject for write in writes for event in write.events}))


def _earlier(bulk: Bulk, writes: Sequence[Write]) -> dict[tuple[str, str], Earlier]:
    keys = {(write.idempotency.client_id, write.idempotency.key) for write in writes if write.idempotency is not None}
    if not keys:
        return {}
    return {(row.client_id, row.key): earlier_from(row) for row in bulk.receipts(list(keys))}


def earlier_from(row: sa.Row[Any]) -> Earlier:
    """What a row of `idempotency` says."""
    return Earlier(row.body_digest, Receipt(Position(row.incarnation, row.seq), row.version, row.committed_at))
