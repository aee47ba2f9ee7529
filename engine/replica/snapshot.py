"""Filling a new generation from a snapshot, beside the one that goes on answering.

The entries come sealed and sorted, so they are appended to the end of the file's trees in large transactions.
Nothing is believed before the last mark has come: until then the generation is invisible and can be deleted.
"""

from typing import Final

from engine.clock import BootTime, UnixTime
from engine.decision.freshness import Bound
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, EntryKind, Position, unseal
from engine.feed.snapshots import BrokenSnapshot, Part, SnapshotCheck
from engine.replica.environment import Environment, WriteTransaction
from engine.replica.layout import stamp
from engine.replica.store import Generation, write_entries

BATCH: Final = 4_000  # entries a transaction: some milliseconds, in which nothing else runs in the feeder

_APPENDED: Final = (EntryKind.CONSENT, EntryKind.TOKEN_REVOCATION)


class StaleSnapshot(Fault):
    """The snapshot is older than the replica: its source lags behind. Ask again."""

    kind = Kind.UNAVAILABLE


class SnapshotLoader:
    """Takes sealed entries one by one. keys: the feed's MAC keys, newest first."""

    def __init__(self, generation: Generation, keys: tuple[bytes, ...]) -> None:
        self.generation = generation
        self._keys = keys
        self._check = SnapshotCheck()
        self._batch: list[Entry] = []

    @property
    def count(self) -> int:
        """Records so far."""
        return self._check.count

    @property
    def position(self) -> Position | None:
        """What the snapshot stands for; known after the first mark."""
        return self._check.position

    def take(self, sealed: bytes) -> None:
        """The next entry. Raises ForgedEntry, BrokenSnapshot, ReplicaFull."""
        entry = unseal(sealed, self._keys)
        if self._check.take(entry) is Part.RECORD:
            self._batch.append(entry)
            if len(self._batch) >= BATCH:
                self._write()

    def finish(self) -> Position:
        """Write what is left. Raises BrokenSnapshot when the last mark has not come."""
        position = self._check.position
        if position is None or not self._check.whole:
            raise BrokenSnapshot("the snapshot was cut off")
        self._write()
        return position

    def _write(self) -> None:
        environment = self.generation.environment
        with environment.writing() as txn:
            for kind in _APPENDED:
                _append(txn, environment, kind, [entry for entry in self._batch if entry.kind is kind])
            write_entries(environment, txn, [entry for entry in self._batch if entry.kind not in _APPENDED])
        self._batch.clear()


def _append(txn: WriteTransaction, environment: Environment, kind: EntryKind, entries: list[Entry]) -> None:
    """Put sorted entries behind the last one of their database; `SnapshotCheck` has seen to the order."""
    database = environment.consents if kind is EntryKind.CONSENT else environment.token_revocations
    items = [(entry.key, stamp(entry.seq, entry.record)) for entry in entries]
    consumed, added = txn.cursor(database).putmulti(items, append=True)
    if (consumed, added) != (len(items), len(items)):
        raise BrokenSnapshot("the snapshot is out of order")


def bound_after(
    position: Position, previous: Bound | None, boot_id: str, asked_at: BootTime, asked_wall: UnixTime
) -> Bound:
    """The bound a snapshot begins with: known as of when it was asked for, and not current.

    It was read from the ledger after that moment, but nobody has admitted this instance for it: only an answered
    question makes it current. Raises StaleSnapshot rather than take back what was applied (and acknowledged).
    """
    if previous is not None and previous.incarnation == position.incarnation and previous.applied > position.seq:
        raise StaleSnapshot("the snapshot is older than the replica", detail=f"{position.seq} < {previous.applied}")
    return Bound(position.incarnation, position.seq, boot_id, asked_at, asked_wall)
