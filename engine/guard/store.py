"""The guard's memory on disk: sealed, bounded, and empty rather than wrong; see `engine.guard.memory`.

One object for the process. A store that is found damaged while it is used is moved aside, and an empty one begins: what
was being written then is refused (MemoryFull), so that whoever brought it brings it again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, TypeVar

import msgspec

from engine.clock import UnixTime
from engine.errors import Fault
from engine.guard import rules
from engine.guard.anchor import MARK_EVERY
from engine.guard.bounded_table import ACTIVE, GARBAGE, GUARDING, NO_END, BoundedTable
from engine.guard.config import Store as Settings
from engine.guard.home import Habits, StoreHome
from engine.guard.memory import MemoryFull
from engine.guard.recall import Recall, Unread, weight_of
from engine.guard.rules import KeptConsent, KeptParty, KeptToken
from engine.guard.sealed_table import SealedTable
from engine.guard.sealing import Sort, StoreKey, Unsealed
from engine.guard.shares import KnownConsent, KnownNo, KnownToken
from engine.guard.table import StoreDamaged
from engine.telemetry.logs import logger

T = TypeVar("T")

FILE: Final = "memory.db"
USE: Final = "memory"  # of the key
LAZY_COUNT: Final = 64  # answers that wait to be written together
LAZY_SECONDS: Final = 1

_encode: Final = msgspec.msgpack.Encoder().encode
_tokens: Final = msgspec.msgpack.Decoder(KeptToken)
_consents: Final = msgspec.msgpack.Decoder(KeptConsent)
_parties: Final = msgspec.msgpack.Decoder(KeptParty)

_log = logger("guard.store")


class StoreStatistics(msgspec.Struct, frozen=True):
    """What is kept. waiting: not written yet. anew: how often an empty store began while this process ran.

    full: the newest write found no room, by the bound of the store or on the disk itself.
    """

    active: int
    guarding: int
    garbage: int
    waiting: int
    free_bytes: int
    anew: int
    full: bool = False


class GuardStore:
    """`engine.guard.memory.Memory` on disk. Any thread may call; one call at a time is done."""

    def __init__(self, settings: Settings, owner: str, wall: Callable[[], UnixTime]) -> None:
        """Open and check the store. owner: the EDP's `client_id`; wall: seconds since 1970.

        Raises BadConfig (key, anchor, directory), OtherKey, StoreInUse, MemoryFull.
        """
        self._wall = wall
        self._max_tokens = settings.max_tokens
        self._calls = threading.RLock()
        self._key = StoreKey.from_file(settings.key_file, owner, USE)
        previous = settings.previous_key_file
        old_key = None if previous is None else StoreKey.from_file(previous, owner, USE)
        anchor = settings.anchor_file or settings.key_file.with_name(settings.key_file.name + ".anchor")
        habits = Habits((Sort.TOKEN, Sort.CONSENT, Sort.PARTY), settings.max_bytes)
        self._home = StoreHome(settings.directory / FILE, anchor, habits, wall)
        self._anew = 0
        self.heard = 0  # see `Memory.heard`
        try:
            self._begin(self._home.open(self._key, old_key))
        except BaseException:
            self._home.release()
            raise

    def _begin(self, sealed: SealedTable) -> None:
        self.heard += 1
        self._recall = Recall()
        self._table = BoundedTable(sealed, self._max_tokens, self._wall, self._recall.drop)
        self._waiting: dict[bytes, KeptToken] = {}
        self._waiting_since = self._wall()
        self._marked_at = self._wall()
        self._wants_mark = False
        self._newest, self._rested = self._table.head.newest, self._table.head.rested_at  # with what is not written yet
        self._may_be_used = True  # something may be kept that rests on a newer truth than the head's `rested_at`
        self._inside = False
        self._failed = self._is_full = False

    def close(self) -> None:
        """Write what waits, and mark the store, so that copies made before now are known as old."""
        with self._calls:
            try:
                self._flush()
                self._home.mark(self._table.sealed)
            except Fault as fault:
                _log.warning("guard_store_closed_unmarked", error=fault.text, detail=fault.detail)
            finally:
                self._table.sealed.table.close()
                self._home.release()

    def remember(self, known: KnownToken) -> bool:
        """See `Memory.remember`."""
        with self._trusting():
            kept, floor = self._token(known.digest), self._table.head.floor
            after = rules.remembered(kept, known, floor)
            if after is None:
                return known.as_of > floor
            self._newest = max(self._newest, known.as_of)
            self._may_be_used |= known.as_of > self._table.head.rested_at and known.last_known_until > known.as_of
            if self._inside or (kept is not None and kept.known is not None and rules.shows_less(known, kept.known)):
                self._write(lambda: self._put_active(after, known))
            else:
                self._wait(known.digest, after)
            self._write_rest()
            return True

    def refuse(self, digest: bytes, as_of: UnixTime) -> None:
        """See `Memory.refuse`. Of a token that was never known as active it outlives kill -9, not a loss of power."""
        with self._trusting():
            kept = self._token(digest)
            after = rules.refused(kept, as_of)
            if after is None:
                return
            if kept is not None and (kept.known is not None or self._table.rank(Sort.TOKEN, digest) == GUARDING):
                self._write(lambda: self._put(Sort.TOKEN, digest, after, GUARDING, self._table.due()))
            else:  # a flood of made-up tokens must not make the disk wait for each of them
                self._write(lambda: self._put(Sort.TOKEN, digest, after, GARBAGE, as_of), durable=False)

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:
        """See `Memory.end`."""
        with self._trusting():
            after = rules.ended(self._consent(consent_id), version, at)
            if after is not None:
                self._put_consent(consent_id, after)

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        """See `Memory.change`."""
        with self._trusting():
            after = rules.changed(self._consent(consent_id), version, entry, expires_at)
            if after is not None:
                self._put_consent(consent_id, after)

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        """See `Memory.suspend`."""
        with self._trusting():
            after = rules.suspended(self._party(client_id), version, suspended)
            if after is not None:
                self._write(lambda: self._put(Sort.PARTY, client_id.encode(), after, GUARDING, NO_END))

    def look(self, digest: bytes) -> KnownToken | None:
        """See `Memory.look`. A record that is not what was kept there counts as nothing known."""
        try:
            with self._trusting():
                kept = self._token(digest)
                if kept is None or kept.known is None:
                    return None
                return rules.in_force(kept.known, self._consent, self._party(kept.known.client_id))
        except MemoryFull:
            return None

    def look_for_no(self, digest: bytes) -> KnownNo | None:
        """See `Memory.look_for_no`. Nothing sure, where the store turns out to be damaged."""
        try:
            with self._trusting():
                kept = self._token(digest)
                return None if kept is None else rules.denied(kept, self._consent, self._party)
        except MemoryFull:
            return None

    def has_ended(self, consent_id: str) -> bool:
        """See `Memory.has_ended`. No, where the store turns out to be damaged: then an empty one has begun."""
        try:
            with self._trusting():
                kept = self._consent(consent_id)
                return kept is not None and kept.ended
        except MemoryFull:
            return False

    def is_suspended(self, client_id: str) -> bool:
        """See `Memory.is_suspended`. No, where the store turns out to be damaged."""
        try:
            with self._trusting():
                kept = self._party(client_id)
                return kept is not None and kept.suspended
        except MemoryFull:
            return False

    def cut(self, shown: KnownConsent) -> KnownConsent | None:
        """See `Memory.cut`. As it is shown, where the store turns out to be damaged."""
        try:
            with self._trusting():
                return rules.narrowed(shown, self._consent(shown.consent_id))
        except MemoryFull:
            return shown

    def rest(self, as_of: UnixTime) -> None:
        """See `Memory.rest`. Written where it may matter: not with each answer of a right that goes on resting."""
        with self._trusting():
            self._rested = max(self._rested, as_of)
            self._write_rest()

    def rested_at(self) -> UnixTime:
        """See `Memory.rested_at`."""
        return self._rested

    def newest(self) -> UnixTime:
        """See `Memory.newest`."""
        return self._newest

    def lost_until(self) -> UnixTime:
        """See `Memory.lost_until`."""
        return self._table.head.lost_until

    def missing_since(self) -> UnixTime | None:
        """See `Memory.missing_since`."""
        return self._table.head.missing_since

    def mark_missing(self, since: UnixTime) -> None:
        """See `Memory.mark_missing`."""
        before = self._table.head.missing_since
        if before is None or since < before:
            self._set_missing(since)

    def mark_whole(self) -> None:
        """See `Memory.mark_whole`."""
        if self._table.head.missing_since is not None:
            self._set_missing(None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Memory.together`."""
        with self._trusting():
            if self._inside:
                raise RuntimeError("writes that are made together are not nested")
            self._flush()
            try:
                with self._table.writing(durable=True):
                    self._inside, self._failed = True, False
                    yield
                    if self._failed:
                        raise MemoryFull("the guard's store did not take all of it")
            except BaseException as error:
                self._recall.clear()  # what was read inside may be what was taken back
                self._is_full = self._is_full or isinstance(error, MemoryFull)
                raise
            finally:
                self._inside = False
            self._is_full = False
            self._mark_if_due()

    def flush(self) -> None:
        """Write the answers that wait. Called by whoever has a moment, each second or so.

        Where there was no room: whether there is any now, though nothing waits.
        """
        with self._trusting():
            self._flush()
            if self._is_full:
                self._write(lambda: None, durable=False)

    def statistics(self) -> StoreStatistics:
        """A frozen record of now."""
        with self._trusting():
            counts, free = self._table.counts, self._table.free_bytes()
            return StoreStatistics(
                counts[ACTIVE], counts[GUARDING], counts[GARBAGE], len(self._waiting), free, self._anew, self._is_full
            )

    def _token(self, digest: bytes) -> KeptToken | None:
        waiting = self._waiting.get(digest) if self._waiting else None
        if waiting is not None:
            return waiting
        kept = self._recall.tokens.find(digest)
        if not isinstance(kept, Unread):
            return kept
        record = self._table.get(Sort.TOKEN, digest)
        if record is None:  # not remembered: a flood of made-up tokens would drive out those that are known
            return None
        read = _read(_tokens, record)
        self._recall.tokens.keep(digest, read, weight_of(read))
        return read

    def _consent(self, consent_id: str) -> KeptConsent | None:
        name = consent_id.encode()
        kept = self._recall.consents.find(name)
        if isinstance(kept, Unread):
            record = self._table.get(Sort.CONSENT, name)
            kept = None if record is None else _read(_consents, record)
            self._recall.consents.keep(name, kept)
        return kept

    def _party(self, client_id: str) -> KeptParty | None:
        name = client_id.encode()
        kept = self._recall.parties.find(name)
        if isinstance(kept, Unread):
            record = self._table.get(Sort.PARTY, name)
            kept = None if record is None else _read(_parties, record)
            self._recall.parties.keep(name, kept)
        return kept

    def _wait(self, digest: bytes, after: KeptToken) -> None:
        now = self._wall()
        if not self._waiting:
            self._waiting_since = now
        before = self._waiting.get(digest)
        self._waiting[digest] = after
        if len(self._waiting) >= LAZY_COUNT or not 0 <= now - self._waiting_since < LAZY_SECONDS:
            try:
                self._flush()
            except MemoryFull:  # while the disk is full no more of them wait than else
                if before is None:
                    self._waiting.pop(digest, None)  # another store may have begun
                else:
                    self._waiting[digest] = before
                raise

    def _flush(self) -> None:
        if self._waiting and not self._inside:
            self._write(lambda: None, durable=False)

    def _write(self, put: Callable[[], None], *, durable: bool = True) -> None:
        """What waits and one more; once more where room could be made."""
        if self._inside:
            self._put_inside(put)
            return
        try:
            self._write_once(put, durable=durable)
        except MemoryFull:
            if not self._table.shed():
                raise
            self._write_once(put, durable=durable)
        if durable:
            self._mark_if_due()

    def _write_once(self, put: Callable[[], None], *, durable: bool) -> None:
        try:
            with self._table.writing(durable=durable):
                for kept in self._waiting.values():
                    if kept.known is not None:
                        self._put_active(kept, kept.known)
                put()
        except BaseException as error:
            self._recall.clear()
            self._is_full = self._is_full or isinstance(error, MemoryFull)
            raise
        self._is_full = False
        self._waiting.clear()

    def _put_inside(self, put: Callable[[], None]) -> None:
        """Where one of several fails, SQLite may have taken back all of them: no later one may stand alone."""
        if self._failed:
            raise MemoryFull("the guard's store did not take what came before")
        try:
            put()
        except Fault:
            self._failed = True
            self._recall.clear()
            raise

    def _put_active(self, kept: KeptToken, known: KnownToken) -> None:
        usable_until = UnixTime(min(known.last_known_until, max(c.expires_at for c in known.consents)))
        head = self._table.head
        if usable_until > head.latest_use or known.as_of > head.newest:
            latest, newest = max(usable_until, head.latest_use), max(known.as_of, head.newest)
            self._table.sealed.set_head(latest_use=latest, newest=newest)
        self._put(Sort.TOKEN, known.digest, kept, ACTIVE, usable_until)

    def _put_consent(self, consent_id: str, after: KeptConsent) -> None:
        self._write(lambda: self._put(Sort.CONSENT, consent_id.encode(), after, GUARDING, self._table.due()))

    def _put(self, sort: Sort, name: bytes, record: msgspec.Struct, rank: int, due: int) -> None:
        if rank == GUARDING:
            self.heard += 1
        self._table.put(sort, name, _encode(record), rank=rank, due=due)

    def _write_rest(self) -> None:
        if self._may_be_used and self._rested > self._table.head.rested_at:
            self._wants_mark = True  # a copy of before would undo it
            self._write(lambda: self._table.sealed.set_head(rested_at=self._rested))
            self._may_be_used = self._inside  # what is made together may yet be taken back

    def _set_missing(self, since: UnixTime | None) -> None:
        with self._trusting():
            self._write(lambda: self._table.sealed.set_missing(since))
            self._wants_mark = True
            self._mark_if_due()

    def _mark_if_due(self) -> None:
        """A new mark each minute of writing; at once where a copy of before would undo that events are missing."""
        now = self._wall()
        if self._inside or not (self._wants_mark or not 0 <= now - self._marked_at < MARK_EVERY):
            return
        self._marked_at, self._wants_mark = now, False
        try:
            self._home.mark(self._table.sealed)
        except Fault as fault:  # what was written is written; copies of the last minutes may pass for the newest
            _log.error("guard_store_not_marked", error=fault.text, detail=fault.detail)

    def _trusting(self) -> "_Trusting":
        """One call at a time; what is not what was kept ends the store. Raises MemoryFull then."""
        return _Trusting(self)

    def _end_store(self, fault: Fault) -> None:
        if self._inside:  # `together` ends it when it is over
            self._failed = True
            raise fault
        why = f"{fault.text} {fault.detail}".strip()
        self._anew += 1
        try:
            self._begin(self._home.begin_anew(self._key, self._table.sealed, why))
        except Fault as worse:
            raise MemoryFull("the guard's store was damaged, and no other can be made", detail=worse.text) from worse


class _Trusting:
    """See `GuardStore._trusting`. A generator in its place would be a tenth of what a check costs."""

    __slots__ = ("_store",)

    def __init__(self, store: GuardStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._store._calls.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, StoreDamaged | Unsealed):
                self._store._end_store(error)
                raise MemoryFull("the guard's store was damaged: an empty one has begun") from error
        finally:
            self._store._calls.release()


def _read(decoder: msgspec.msgpack.Decoder[T], record: bytes) -> T:
    try:
        return decoder.decode(record)
    except msgspec.MsgspecError as error:
        raise StoreDamaged("a record of the guard's has another form") from error
