"""The reading side of a node's replica: what a worker consults in every request, tens of thousands a second.

One LMDB transaction gives the freshness bound and every record of a request, all of one moment; the clock is
read after it was opened, never before. A transaction must not be kept across an await: it would hold old pages.
What seldom changes (bound, participants, policy) is decoded once per distinct bytes; consents are decoded anew.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import lmdb
import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import (
    POLICY_KEY,
    AccessMode,
    ClientId,
    ConsentKey,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    Thumbprint,
)
from engine.consent.recovery import NO_PAST, Recovery
from engine.consent.states import State
from engine.decision.freshness import Bound, under_recovery
from engine.replica import layout
from engine.replica.environment import Environment, ReplicaUnreadable, fault_of
from engine.replica.generations import current_name
from engine.replica.layout import STAMP_BYTES, BrokenReplica

LOOK_EVERY: Final = Seconds(0.25)  # how long a replica that came to be unnoticed stays unnoticed, under requests
MAX_REMEMBERED: Final = 10_000  # decoded participants; far above how many there are
DEFAULT_POLICY: Final = PolicyRecord()

_BOUND_KEY: Final = layout.BOUND_KEY

# A consent that was touched in what a restored ledger has lost, and of which that ledger has said nothing since, reads
# as one that nobody has granted yet: nothing may be done on it, and to EDPs it looks as any other no.
IN_DOUBT: Final = ConsentRecord(
    state=State.REQUESTED,
    consent_version=0,
    atp=ClientId(""),
    dataset_id="",
    access_mode=AccessMode.ENDURING,
    granted_at=UnixTime(0),
    expires_at=UnixTime(0),
    data_from=UnixTime(0),
    data_to=None,
    meter_digests=(),
    edps=(),
)
_IN_DOUBT_VALUE: Final = layout.stamp(0, msgspec.msgpack.encode(IN_DOUBT))

_consent = msgspec.msgpack.Decoder(ConsentRecord).decode
_participant = msgspec.msgpack.Decoder(ParticipantRecord).decode
_policy = msgspec.msgpack.Decoder(PolicyRecord).decode


class Moment(msgspec.Struct, frozen=True):
    """What stands over the records in one transaction.

    version: as long as it is the same, every record that could be read is the same, but for tombstones that have been
    swept away; it never comes again for anything else. bound: None = there is no replica; while the ledger is
    recovering, as `freshness.under_recovery` gives it. recovery: None = the ledger is live.
    """

    version: int
    bound: Bound | None
    policy: PolicyRecord
    recovery: Recovery | None = None


_versions: Final = itertools.count(1)


class View:
    """What the replica says at one moment. Use it inside `with`; it is over at the end of the block.

    bound: None = there is no replica; then every record is missing too. Methods raise BrokenReplica.
    """

    __slots__ = ("_get", "_opened", "_replica", "_txn", "bound", "moment")

    def __init__(self, opened: "_Opened | None", replica: "Replica | None" = None) -> None:
        self._opened = opened
        self._replica = replica

    def __enter__(self) -> Self:
        opened = self._opened
        if opened is None:
            self.moment: Moment = Moment(next(_versions), None, DEFAULT_POLICY)
            self.bound: Bound | None = None
            return self
        try:
            txn = self._txn = opened.begin(opened.meta)
            self._get = txn.get
            if txn.id() == opened.number:
                opened.unchanged = True
            else:
                opened.look(txn)
        except lmdb.Error as error:
            raise fault_of(error) from error
        if opened.moved:
            return self._move_over()
        self.moment = opened.moment
        self.bound = opened.moment.bound
        return self

    def _move_over(self) -> Self:
        """The file was replaced: what stands in it counts no more, not even in this request.

        From here on the feeder may have acknowledged what only the new file knows.
        """
        self._txn.abort()
        self._opened = None if self._replica is None else self._replica.moved_to()
        return self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is None:
            return
        self._txn.abort()
        if kind is not None:
            _translate(error)

    def participant_by_thumbprint(self, thumbprint: Thumbprint) -> ParticipantRecord | None:
        """Whose certificate it is. thumbprint: SHA-256 of the DER. Suspended participants are found too."""
        if self._opened is None:
            return None
        client_id = self._get(thumbprint, None, self._opened.thumbprints)
        return None if client_id is None else self._participant(client_id)

    def participant(self, client_id: ClientId) -> ParticipantRecord | None:
        """A participant by its client id."""
        opened = self._opened
        if opened is None:
            return None
        found = opened.seen.get(client_id)
        if found is None:
            found = self._participant(client_id.encode())
            if found is not None:
                opened.seen[client_id] = found
        return found

    def _participant(self, client_id: bytes) -> ParticipantRecord | None:
        opened = self._opened
        if opened is None:
            return None
        value = self._get(client_id, None, opened.participants)
        return None if value is None else opened.participant_of(value)

    def consent(self, key: ConsentKey) -> ConsentRecord | None:
        """A consent, ended ones included until they are forgotten; IN_DOUBT: nothing may be done on it for now."""
        value = self.consent_value(key)
        return None if value is None else _consent(value[STAMP_BYTES:])

    def consent_value(self, key: ConsentKey) -> bytes | None:
        """The stored form, for telling whether a consent is still the same; of one in doubt, that of IN_DOUBT."""
        if self._opened is None:
            return None
        value: bytes | None = self._get(key, None, self._opened.consents)
        if self.moment.recovery is not None and self._is_doubted(key, value, self._opened, self.moment.recovery):
            return _IN_DOUBT_VALUE
        return value

    def _is_doubted(self, key: ConsentKey, value: bytes | None, opened: "_Opened", recovery: Recovery) -> bool:
        """Whether something was told about it in this recovery that the ledger has not answered with an event since."""
        doubt: bytes | None = self._get(key, None, opened.doubts)
        if doubt is None or layout.stamped_at(doubt) < recovery.since:
            return False
        return value is None or layout.stamped_at(value) < layout.stamped_at(doubt)

    def token_revoked(self, revocation_key: bytes) -> bool:
        """Whether a token was ended. revocation_key: first 16 bytes of SHA-256 over its `jti`."""
        if self._opened is None:
            return False
        return self._get(revocation_key, None, self._opened.token_revocations) is not None

    def policy(self) -> PolicyRecord:
        """The service's policy; the defaults where none was ever set."""
        if self._opened is None:
            return DEFAULT_POLICY
        value = self._get(POLICY_KEY, None, self._opened.policy)
        return DEFAULT_POLICY if value is None else self._opened.policy_of(value)

    def keys(self) -> bytes | None:
        """The verification keys as `/feed/keys` gave them (JSON)."""
        if self._opened is None:
            return None
        raw: bytes | None = self._get(layout.KEYS_KEY, None, self._opened.meta)
        return raw


class Replica:
    """A reader process's handle. It may be made before there is a replica: views are empty until then."""

    def __init__(self, directory: Path, *, map_size: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._map_size = map_size
        self._monotonic = monotonic
        self._opened: _Opened | None = None
        self._look_at = 0.0
        self.refresh()

    def transaction(self) -> View:
        """A view of now: `with replica.transaction() as view`. Raises ReplicaUnreadable, BrokenReplica."""
        opened = self._opened
        if opened is None or (opened.unchanged and self._monotonic() >= self._look_at):
            self.refresh()
            opened = self._opened
        return View(opened, self)

    def moment(self) -> Moment:
        """What stands over the records now: a transaction that reads nothing else. Raises as `transaction` does."""
        opened = self._opened
        if opened is not None and not (opened.unchanged and self._monotonic() >= self._look_at):
            try:
                txn = opened.begin(opened.meta)
                number = txn.id()
                txn.abort()
            except lmdb.Error as error:
                raise fault_of(error) from error
            if number == opened.number and not opened.moved:
                opened.unchanged = True
                return opened.moment
        with self.transaction() as view:
            return view.moment

    def moved_to(self) -> "_Opened | None":
        """What took the place of a generation that says so; None: nothing has yet."""
        replaced = self._opened
        self.refresh()
        if self._opened is not replaced:
            return self._opened
        if replaced is not None:
            replaced.forget_bound()  # the writer may take its word back
        return None

    def refresh(self) -> None:
        """Open the generation in use if another one is open. Cheap; call it from a timer as well.

        Requests look by themselves: at once when the writer left word in the old file, and every LOOK_EVERY
        while the bound stands still (a writer that threw the file away could leave no word; then the old bound
        runs out, and the barrier waits for that, because the instance that earned it is silent).
        """
        self._look_at = self._monotonic() + LOOK_EVERY
        for _ in range(3):  # a generation may vanish between reading the link and opening it
            name = current_name(self._directory)
            if name == (self._opened.name if self._opened is not None else None):
                return
            try:
                fresh = None if name is None else self._open(name)
            except (ReplicaUnreadable, BrokenReplica):
                continue
            self._close()
            self._opened = fresh
            return

    def _open(self, name: str) -> "_Opened":
        return _Opened(Environment(self._directory / name, map_size=self._map_size, writable=False))

    def close(self) -> None:
        """Unmap the file. Views of it must be over."""
        self._close()

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.environment.close()
            self._opened = None


def view_of(environment: Environment) -> View:
    """A view of an environment that is open already, for the writer's own process and for tests."""
    return View(_Opened(environment))


class _Opened:
    """An open generation, and what was decoded from it, remembered by its bytes."""

    def __init__(self, environment: Environment) -> None:
        self.name = environment.path.name
        self.environment = environment
        self.begin = self.environment.lmdb.begin
        self.meta = self.environment.meta
        self.thumbprints = self.environment.thumbprints
        self.participants = self.environment.participants
        self.consents = self.environment.consents
        self.token_revocations = self.environment.token_revocations
        self.policy = self.environment.policy
        self.recovery = self.environment.recovery
        self.doubts = self.environment.doubts
        self.unchanged = True  # the last transaction found the file as the one before it did, or there was none
        self.seen: dict[ClientId, ParticipantRecord] = {}  # under this version
        self._participants: dict[bytes, ParticipantRecord] = {}
        self._policies: dict[bytes, PolicyRecord] = {}
        self.number = -1  # of the transaction that was looked at last
        self.moved = False
        self.moment = Moment(next(_versions), None, DEFAULT_POLICY)
        self._over: tuple[int, bytes, bytes | None, Recovery | None] | None = None
        self._restores: tuple[tuple[bytes, bytes], ...] = ()
        self._past = NO_PAST

    def look(self, txn: lmdb.Transaction) -> None:
        """Something was committed: what stands over the records, and whether any of them may have changed."""
        self.unchanged = False
        get: Callable[..., Any] = txn.get  # bytes, as the transaction has no buffers
        bound, self.moved = layout.unpack_bound(get(_BOUND_KEY) or b"")
        policy, keys = get(POLICY_KEY, None, self.policy) or b"", get(layout.KEYS_KEY)
        try:
            decided = self.policy_of(policy) if policy else DEFAULT_POLICY
        except msgspec.MsgspecError as error:
            raise BrokenReplica("the replica's policy cannot be read", detail=str(error)) from error
        recovery = self._recovery_in(txn, bound.applied)
        over = (bound.applied, policy, keys, recovery)
        version = self.moment.version
        if over != self._over:
            version = next(_versions)
            self.seen = {}
        self._over = over
        self.moment = Moment(version, under_recovery(bound, recovery), decided, recovery)
        self.number = txn.id()

    def _recovery_in(self, txn: lmdb.Transaction, applied: int) -> Recovery | None:
        """Decoded once per distinct bytes: a ledger has few restores in its life, mostly none."""
        found = tuple((bytes(key), bytes(value)) for key, value in txn.cursor(self.recovery))
        if found != self._restores:
            self._past = layout.past_in(found)
            self._restores = found
        return self._past.recovery(applied) if found else None

    def forget_bound(self) -> None:
        """Look anew at whatever comes."""
        self.number, self.moved, self._over, self.seen = -1, False, None, {}
        self.moment = Moment(next(_versions), None, DEFAULT_POLICY)

    def participant_of(self, value: bytes) -> ParticipantRecord:
        record = self._participants.get(value)
        if record is None:
            record = _participant(value[STAMP_BYTES:])
            if len(self._participants) >= MAX_REMEMBERED:
                self._participants.clear()
            self._participants[value] = record
        return record

    def policy_of(self, value: bytes) -> PolicyRecord:
        record = self._policies.get(value)
        if record is None:
            record = _policy(value[STAMP_BYTES:])
            self._policies = {value: record}
        return record


def _translate(error: BaseException | None) -> None:
    if isinstance(error, lmdb.Error):
        raise fault_of(error) from error
    if isinstance(error, msgspec.MsgspecError):
        raise BrokenReplica("a record of the replica cannot be read", detail=str(error)) from error
