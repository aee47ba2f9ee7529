"""The writing side of a node's replica: one writer, and every change with its position in one transaction.

The replica is the node's last-known knowledge and survives restarts. Entries are applied strictly in order,
together with the position and the freshness bound they lead to, so that no reader ever sees one without the
other. Each value carries the position that wrote it: applying twice changes nothing, and a snapshot's record that
is newer than the snapshot's position is not undone by the older entries that follow.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import ConsentRecord, ParticipantRecord, TokenRevocation
from engine.consent.states import ENDED
from engine.decision.freshness import Bound
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, EntryKind
from engine.replica import generations, layout
from engine.replica.environment import (
    Database,
    Environment,
    ReplicaFull,
    ReplicaUnreadable,
    WriteTransaction,
    translated,
)
from engine.replica.generations import Generations, WriterLock
from engine.replica.layout import STAMP_BYTES, BrokenReplica, stamp, stamped_at

_consent = msgspec.msgpack.Decoder(ConsentRecord).decode
_participant = msgspec.msgpack.Decoder(ParticipantRecord).decode
_revocation = msgspec.msgpack.Decoder(TokenRevocation).decode


class OutOfOrder(Fault):
    """Entries that do not continue what is applied: a gap, another incarnation, or a bound that does not fit."""

    kind = Kind.CONFLICT


class Generation:
    """One environment being written: the one in use, or the next one while a snapshot fills it."""

    def __init__(self, path: Path, *, map_size: int) -> None:
        self.path = path
        self.environment = Environment(path, map_size=map_size, writable=True)

    def bound(self) -> Bound:
        """The stored bound. Raises BrokenReplica when there is none."""
        with translated(), self.environment.lmdb.begin() as txn:
            bound, _ = layout.unpack_bound(txn.get(layout.BOUND_KEY, b"", db=self.environment.meta))
        return bound

    def put_bound(self, bound: Bound, *, moved: bool = False) -> None:
        """Write the bound alone. moved: tell readers that another generation takes this one's place."""
        with self.environment.writing() as txn:
            txn.put(layout.BOUND_KEY, layout.pack_bound(bound, moved=moved), db=self.environment.meta)

    def seal(self, bound: Bound, keys: bytes | None = None) -> None:
        """Write format, bound and the verification keys known so far: from here on the generation is complete."""
        with self.environment.writing() as txn:
            txn.put(layout.FORMAT_KEY, layout.FORMAT, db=self.environment.meta)
            if keys is not None:
                txn.put(layout.KEYS_KEY, keys, db=self.environment.meta)
            txn.put(layout.BOUND_KEY, layout.pack_bound(bound), db=self.environment.meta)

    def close(self, *, clean: bool) -> None:
        """clean: bring everything to disk first, so that the file outlives the machine's next crash."""
        if clean:
            self.environment.lmdb.sync(True)  # noqa: FBT003 - LMDB's own signature: force
        self.environment.close()
        if clean:
            generations.mark_clean(self.path)


class ReplicaStore:
    """The one writer. `bound` is None until the first snapshot has been adopted."""

    def __init__(self, directory: Path, *, map_size: int, boot_id: str) -> None:
        """Take the lock and open what is there.

        A file that cannot be trusted is thrown away; `discarded` then says why, in words for the log. A disk without
        room is no reason: what is there is kept for the next start.
        Raises ReplicaInUse, ReplicaUnwritable, ReplicaUnreadable, ReplicaFull.
        """
        self.discarded: str | None = None
        self.bound: Bound | None = None
        self._map_size, self._boot_id = map_size, boot_id
        self._generation: Generation | None = None
        self._sweeps: dict[int, bytes] = {}  # entry kind -> the key the next sweep goes on from
        self._lock = WriterLock(directory)
        self._generations = Generations(directory)
        try:
            self._open_current()
        except BaseException:
            self._lock.release()
            raise

    @property
    def environment(self) -> Environment | None:
        """The open file, for a reader in the writer's own process (LMDB opens a file once per process)."""
        return None if self._generation is None else self._generation.environment

    def _open_current(self) -> None:
        path = self._generations.current()
        if path is not None:
            self.discarded = generations.distrusted(path, self._boot_id)
            if self.discarded is None:
                self._try_open(path)
        self._forget_others()

    def _try_open(self, path: Path) -> None:
        generations.mark_trial(path)
        try:
            generation = Generation(path, map_size=self._map_size)
            try:
                generation.environment.check_whole()
                bound = generation.bound()
                generation.put_bound(bound)  # a writer that died while it moved on may have left its word
                self.bound = bound
            except BaseException:
                generation.close(clean=False)
                raise
        except ReplicaFull:
            generations.mark_open(path, self._boot_id)  # the trial was survived; there is only no room
            raise
        except (BrokenReplica, ReplicaUnreadable, OSError) as error:
            self.discarded = str(error)
            return
        generations.mark_open(path, self._boot_id)
        self._generation = generation

    def apply(self, entries: Sequence[Entry], bound: Bound) -> None:
        """Apply entries and publish the bound they lead to, in one transaction.

        entries: continue `self.bound` without a gap, under its incarnation; may be empty. bound: speaks of the
        last of them. Raises OutOfOrder (nothing is written), ReplicaFull, BrokenReplica.
        """
        generation, held = self._held()
        _refuse_gaps(held, entries, bound)
        try:
            with generation.environment.writing() as txn:
                write_entries(generation.environment, txn, entries)
                txn.put(layout.BOUND_KEY, layout.pack_bound(bound), db=generation.environment.meta)
        except BrokenReplica:
            generations.mark_trial(generation.path)  # the next start takes a snapshot
            raise
        self.bound = bound

    def put_keys(self, raw: bytes) -> None:
        """Keep the verification keys, as `/feed/keys` gave them, for a start without the feed service."""
        generation, _ = self._held()
        with generation.environment.writing() as txn:
            txn.put(layout.KEYS_KEY, raw, db=generation.environment.meta)

    def keys(self) -> bytes | None:
        """The verification keys kept; None: none yet."""
        if self._generation is None:
            return None
        generation = self._generation
        with generation.environment.lmdb.begin() as txn:
            return txn.get(layout.KEYS_KEY, db=generation.environment.meta)

    def begin_generation(self) -> Generation:
        """An empty generation beside the one in use, for a snapshot to fill; see `adopt`."""
        path = self._generations.create()
        try:
            generations.mark_open(path, self._boot_id)
            return Generation(path, map_size=self._map_size)
        except BaseException:
            self._forget_others()
            raise

    def adopt(self, generation: Generation) -> None:
        """Put a sealed generation in the place of the one in use; readers move over by themselves.

        They are told first: once this returns, the new position may be acknowledged, and nobody may answer from
        the old file any more. If it fails, the generation in use stays in use.
        """
        bound = generation.bound()
        previous, was = self._generation, self.bound
        if previous is not None and was is not None:
            previous.put_bound(was, moved=True)
        try:
            self._generations.switch_to(generation.path)
        except BaseException:
            if previous is not None and was is not None:
                previous.put_bound(was)
            raise
        self._generation, self.bound = generation, bound
        self._sweeps.clear()
        if previous is not None:
            previous.close(clean=False)
        self._generations.remove_others(generation.path)

    def abandon(self, generation: Generation) -> None:
        """Delete a generation that did not become whole."""
        generation.close(clean=False)
        self._forget_others()

    def _forget_others(self) -> None:
        self._generations.remove_others(self._generation.path if self._generation is not None else None)

    def reader_check(self) -> int:
        """Free the slots of readers that were killed: they would hold old pages for ever. Returns how many."""
        return 0 if self._generation is None else int(self._generation.environment.lmdb.reader_check())

    def sweep(self, now: UnixTime, token_life: Seconds, limit: int) -> int:
        """Look at up to `limit` records of each kind and drop those nobody can ask about any more.

        An ended consent stays as a tombstone until its own period and a token's life are over; one that has not
        been ended stays, whatever its dates. A token's revocation goes when the token has expired. Goes on where
        the last sweep stopped. Returns how many were dropped.
        """
        generation, _ = self._held()
        environment = generation.environment
        with environment.writing() as txn:
            consents = self._due(txn, environment, EntryKind.CONSENT, limit, UnixTime(int(now - token_life)))
            revocations = self._due(txn, environment, EntryKind.TOKEN_REVOCATION, limit, now)
            for key in consents:
                txn.delete(key, db=environment.consents)
            for key in revocations:
                txn.delete(key, db=environment.token_revocations)
        return len(consents) + len(revocations)

    def _due(
        self, txn: WriteTransaction, environment: Environment, kind: EntryKind, limit: int, before: UnixTime
    ) -> list[bytes]:
        consents = kind is EntryKind.CONSENT
        cursor = txn.cursor(environment.consents if consents else environment.token_revocations)
        due: list[bytes] = []
        found = cursor.set_range(self._sweeps.get(kind, b""))
        for _ in range(limit):
            if not found:
                self._sweeps.pop(kind, None)
                return due
            expires_at = _ended_until(cursor.value()) if consents else _revocation_until(cursor.value())
            if expires_at is not None and expires_at <= before:
                due.append(cursor.key())
            found = cursor.next()
        if found:
            self._sweeps[kind] = cursor.key()
        else:
            self._sweeps.pop(kind, None)
        return due

    def close(self) -> None:
        """End in order: the file then outlives a crash of the machine."""
        if self._generation is not None:
            self._generation.close(clean=True)
            self._generation = None
        self._lock.release()

    def _held(self) -> tuple[Generation, Bound]:
        if self._generation is None or self.bound is None:
            raise OutOfOrder("there is no replica yet: a snapshot comes first")
        return self._generation, self.bound


def write_entries(environment: Environment, txn: WriteTransaction, entries: Sequence[Entry]) -> None:
    """Put entries into their databases; a record that is already there with a higher position stays."""
    for entry in entries:
        if entry.kind is EntryKind.CONSENT:
            _put(txn, environment.consents, entry)
        elif entry.kind is EntryKind.TOKEN_REVOCATION:
            _put(txn, environment.token_revocations, entry)
        elif entry.kind is EntryKind.PARTICIPANT:
            _put_participant(txn, environment, entry)
        elif entry.kind is EntryKind.POLICY:
            _put(txn, environment.policy, entry)
        elif entry.kind is EntryKind.RECOVERY:
            _put(txn, environment.recovery, entry)
        elif entry.kind is EntryKind.DOUBT:
            _put(txn, environment.doubts, entry)
        # NOTHING, RECEIVER and KEYS leave no record here: they only move the position on


def _put(txn: WriteTransaction, database: Database, entry: Entry) -> bytes | None:
    """Put unless what is there is newer or the same. Returns what was replaced; b"" = nothing, None = not put."""
    there = txn.get(entry.key, b"", db=database)
    if there and stamped_at(there) >= entry.seq:
        return None
    txn.put(entry.key, stamp(entry.seq, entry.record), db=database)
    return there


def put_participant(txn: WriteTransaction, environment: Environment, key: bytes, seq: int, record: bytes) -> None:
    """Put a participant and its certificates, unless what is there is newer or the same."""
    _put_participant(txn, environment, Entry("", seq, EntryKind.PARTICIPANT, key, record))


def _put_participant(txn: WriteTransaction, environment: Environment, entry: Entry) -> None:
    replaced = _put(txn, environment.participants, entry)
    if replaced is None:
        return
    for thumbprint in _thumbprints(replaced[STAMP_BYTES:]):
        if txn.get(thumbprint, db=environment.thumbprints) == entry.key:  # it may have gone to another client
            txn.delete(thumbprint, db=environment.thumbprints)
    for thumbprint in _thumbprints(entry.record):
        txn.put(thumbprint, entry.key, db=environment.thumbprints)


def _thumbprints(record: bytes) -> list[bytes]:
    if not record:
        return []
    try:
        return [bytes(certificate.thumbprint) for certificate in _participant(record).certificates]
    except msgspec.MsgspecError as error:
        raise BrokenReplica("a participant's record cannot be read", detail=str(error)) from error


def _ended_until(value: bytes) -> UnixTime | None:
    """The end of an ended consent's period; None: it has not ended, or cannot be read (then it stays)."""
    try:
        record = _consent(value[STAMP_BYTES:])
    except msgspec.MsgspecError:
        return None
    return record.expires_at if record.state in ENDED else None


def _revocation_until(value: bytes) -> UnixTime | None:
    try:
        return _revocation(value[STAMP_BYTES:]).expires_at
    except msgspec.MsgspecError:
        return None


def _refuse_gaps(held: Bound, entries: Sequence[Entry], bound: Bound) -> None:
    if bound.incarnation != held.incarnation:
        raise OutOfOrder("another incarnation needs a snapshot of its own")
    for expected, entry in enumerate(entries, held.applied + 1):
        if entry.seq != expected or entry.incarnation != held.incarnation:
            raise OutOfOrder(f"entry {entry.seq} does not follow {expected - 1}")
    if bound.applied != held.applied + len(entries):
        raise OutOfOrder(f"the bound speaks of {bound.applied}, the entries end elsewhere")
