"""The guard's evidence on disk: what it did while nobody could be asked, written through before a share is made.

Only ever added to; sealed as the memory is, under keys of its own; each entry bound to the one before
(`engine.guard.evidence_chain`). What was reported goes after `keep_days`, or where room is needed, the oldest first.
What was not reported never goes: a log full of it takes no more, and then no share is made. Of a log that is damaged
the next one takes over what can still be read and is to be reported, and an outage that has not ended.
"""

import heapq
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec

from engine.clock import UnixTime
from engine.errors import Fault
from engine.guard.config import Evidence as Settings
from engine.guard.config import Store
from engine.guard.evidence_chain import Link, entry_text
from engine.guard.evidence_words import Entry, OutageEvidence, ShareEvidence
from engine.guard.home import Habits, StoreHome
from engine.guard.memory import MemoryFull
from engine.guard.open_outage import OpenOutage
from engine.guard.salvage import readable_rows
from engine.guard.sealed_table import SealedTable
from engine.guard.sealing import Sort, StoreKey, Unsealed
from engine.guard.table import Row, StoreDamaged
from engine.telemetry.logs import logger

T = TypeVar("T")

FILE: Final = "evidence.db"
USE: Final = "evidence"  # of the key
SETTLED: Final = 0  # reported, or nothing to report; due: its number
UNREPORTED: Final = 1
_TIP_RANK: Final = 2
_TIP: Final = b"tip"
# Pages that no share may take; an eighth of a small log. In a log without any room what was reported could not be noted
# as that, nor the end of the outage, so that it would stay full for ever.
_RESERVE: Final = 256
_TOGETHER: Final = 256
_DAY: Final = 86_400

_encode: Final = msgspec.msgpack.Encoder().encode
_links: Final = msgspec.msgpack.Decoder(Link)

_log = logger("guard.evidence")


class Tip(msgspec.Struct, frozen=True, array_like=True):
    """Where the chain ends. Stored: a new field goes to the end and has a default."""

    chain: str
    seq: int = 0
    hash: bytes = bytes(32)
    open_outage: float | None = None
    noted: float = 0.0  # the newest time that is known of it


class _Dated(msgspec.Struct, frozen=True):
    """An entry's text, as far as time goes."""

    at: float | None = None  # of a share
    began_at: float | None = None  # of an outage


class EvidenceStatistics(msgspec.Struct, frozen=True):
    """unreported_since: when the oldest share that was not reported was judged; None: all were, or it does not say.

    full: the newest share found no room, and none was made since.
    """

    settled: int
    unreported: int
    unreported_since: float | None
    free_bytes: int
    full: bool = False


_tips: Final = msgspec.msgpack.Decoder(Tip)
_dates: Final = msgspec.json.Decoder(_Dated)


class EvidenceLog:
    """`engine.guard.evidence_words.Evidence` on disk. Any thread may call; one call at a time is done."""

    def __init__(self, settings: Settings, store: Store, owner: str, wall: Callable[[], UnixTime]) -> None:
        """Open and check the log. owner: the EDP's `client_id`; wall: seconds since 1970.

        A log that went back in time is taken, since what it holds is true; a new chain begins in it.
        Raises BadConfig, OtherKey, StoreInUse, MemoryFull.
        """
        self._wall = wall
        self._keep = settings.keep_days * _DAY
        self._calls = threading.RLock()
        self._key = StoreKey.from_file(store.key_file, owner, USE)
        old = None if store.previous_key_file is None else StoreKey.from_file(store.previous_key_file, owner, USE)
        beside = store.anchor_file or store.key_file.with_name(store.key_file.name + ".anchor")
        habits = Habits((Sort.EVIDENCE,), settings.max_bytes, takes_older=True, kept_aside=None)
        anchor = beside.with_name(beside.name + ".evidence")
        self._home = StoreHome(store.directory / FILE, anchor, habits, wall)
        self._max_bytes = settings.max_bytes
        self._is_full = False
        self._keys = [self._key] if old is None else [self._key, old]
        self._outage = OpenOutage(store, owner)
        try:
            self._begin(self._home.open(self._key, old))
        except BaseException:
            self._home.release()
            raise

    def _begin(self, sealed: SealedTable) -> None:
        self._sealed = sealed
        self._reserve = min(_RESERVE, sealed.table.max_pages // 8)
        self._counts = {rank: sealed.table.count(rank) for rank in (SETTLED, UNREPORTED)}
        record = sealed.get(Sort.EVIDENCE, _TIP)
        if record is None:
            self._begin_empty()
            return
        self._tip = _tips.decode(record)
        if self._home.went_back:  # numbers after this one may have been given to entries that are lost
            since = _earlier(self._tip.open_outage, self._outage.load())
            self._tip = msgspec.structs.replace(self._tip, chain=os.urandom(4).hex(), open_outage=since)
        self._outage.settle(self._tip.open_outage)

    def _begin_empty(self) -> None:
        """Go on with what can be read of the log before, if one was damaged: what is to be reported, an open outage."""
        aside, self._home.aside = self._home.aside, None
        found = {} if aside is None else readable_rows(aside, self._max_bytes, self._keys, (_TIP_RANK, UNREPORTED))
        left = _decoded(_tips, found.pop(_TIP, b"")) or Tip("")
        links = [link for link in (_decoded(_links, record) for record in found.values()) if link is not None]
        since = _earlier(left.open_outage, self._outage.load())
        # Under another chain's name, and after all numbers that are known to have been given.
        self._tip = Tip(os.urandom(4).hex(), max([left.seq, *(link.seq for link in links)]))
        with self._sealed.writing(durable=True):
            for link in links:
                self._put(link, UNREPORTED)
            # Before the first entry, too: a start that found no tip would give the numbers of these again.
            self._put_tip(msgspec.structs.replace(self._tip, open_outage=since))
        self._counts[UNREPORTED] += len(links)
        if since is not None:
            self.record(OutageEvidence(since, 0.0, ()))
        if aside is not None:
            _log.error("guard_evidence_carried_on", aside=aside.name, unreported=len(links), outage_since=since)

    def record(self, entry: Entry) -> str:
        """See `Evidence.record`. On disk, through a loss of power too, where a share is made on it."""
        return self.record_all([entry])[0]

    def record_all(self, entries: Sequence[Entry]) -> list[str]:
        """See `Evidence.record_all`: all of them or none, with one wait for the disk."""
        durable = any(isinstance(entry, OutageEvidence) or entry.allowed for entry in entries)
        has_shares = any(isinstance(entry, ShareEvidence) for entry in entries)
        with self._trusting():
            self._make_room()
            tip, links = self._tip, []
            for entry in entries:
                link = Link(tip.chain, tip.seq + 1, tip.hash, entry_text(entry))
                tip = Tip(tip.chain, link.seq, link.hash, *_open_outage(tip, entry))
                links.append((link, UNREPORTED if _is_to_report(entry) else SETTLED))
            if tip.open_outage not in (None, self._tip.open_outage):
                self._outage.keep(tip.open_outage)
            try:
                with self._sealed.writing(durable=durable):
                    for link, rank in links:
                        self._put(link, rank)
                    self._put_tip(tip)
                    self._refuse_the_last_pages(has_shares=has_shares)
            except MemoryFull:
                self._is_full = self._is_full or has_shares
                raise
            if tip.open_outage is None and self._tip.open_outage is not None:
                self._outage.keep(None)
            self._tip, self._is_full = tip, self._is_full and not has_shares
            for _, rank in links:
                self._counts[rank] += 1
            return [link.evidence_id for link, _ in links]

    def open_outage(self) -> float | None:
        """See `Evidence.open_outage`."""
        return self._tip.open_outage

    def outage_noted(self) -> float:
        """See `Evidence.outage_noted`."""
        return self._tip.noted

    def note_outage(self, at: float) -> None:
        """See `Evidence.note_outage`."""
        with self._trusting():
            if self._tip.open_outage is None or at <= self._tip.noted:
                return
            tip = msgspec.structs.replace(self._tip, noted=at)
            with self._sealed.writing(durable=True):
                self._put_tip(tip)
            self._tip = tip

    def read(self, evidence_id: str) -> Link | None:
        """An entry in its place; None: it is not kept (any more)."""
        _, _, number = evidence_id.partition("-")
        if not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        with self._trusting():
            record = self._sealed.get(Sort.EVIDENCE, _name(int(number)))
            link = None if record is None else _read(record)
        return link if link is not None and link.evidence_id == evidence_id else None

    def unreported(self, limit: int) -> list[Link]:
        """The oldest shares that the service has not been told of."""
        with self._trusting():
            return [self._open(row) for row in self._sealed.rows_after(UNREPORTED, 0, limit)]

    def mark_reported(self, links: Sequence[Link]) -> None:
        """The service has these. Passes over what another log than this one held, which was damaged meanwhile.

        Raises MemoryFull: then they are reported again.
        """
        now, moved = float(self._wall()), 0
        with self._trusting():
            self._make_room()
            with self._sealed.writing(durable=True):
                for link in links:
                    if not self._holds(link):
                        continue
                    moved += self._put(msgspec.structs.replace(link, reported_at=now), SETTLED) == UNREPORTED
            self._is_full = False
            self._counts[UNREPORTED] -= moved
            self._counts[SETTLED] += moved

    def links(self) -> Iterator[Link]:
        """All entries that are kept, in their order: for an export."""
        for row in heapq.merge(*(self._rows(rank) for rank in (SETTLED, UNREPORTED)), key=lambda row: row.place.due):
            yield self._open(row)

    def statistics(self) -> EvidenceStatistics:
        """A frozen record of now."""
        with self._trusting():
            oldest = self.unreported(1)
            free = max(0, self._sealed.table.free_pages()) * 4_096
            at = _when(oldest[0]) if oldest else None
            return EvidenceStatistics(self._counts[SETTLED], self._counts[UNREPORTED], at, free, self._is_full)

    def close(self) -> None:
        """Mark the log, so that copies made before now are known as old."""
        with self._calls:
            try:
                self._home.mark(self._sealed)
            except Fault as fault:
                _log.warning("guard_evidence_closed_unmarked", error=fault.text, detail=fault.detail)
            finally:
                self._sealed.table.close()
                self._home.release()

    def _holds(self, link: Link) -> bool:
        record = self._sealed.get(Sort.EVIDENCE, _name(link.seq))
        return record is not None and _read(record).evidence_id == link.evidence_id

    def _put(self, link: Link, rank: int) -> int | None:
        return self._sealed.put(Sort.EVIDENCE, _name(link.seq), _encode(link), rank=rank, due=link.seq)

    def _put_tip(self, tip: Tip) -> None:
        self._sealed.put(Sort.EVIDENCE, _TIP, _encode(tip), rank=_TIP_RANK, due=0)

    def _open(self, row: Row) -> Link:
        _, _, record = self._sealed.opened(row, Sort.EVIDENCE)
        return _read(record)

    def _rows(self, rank: int) -> Iterator[Row]:
        after = 0
        while True:
            with self._trusting():
                rows = self._sealed.rows_after(rank, after, _TOGETHER)
            if not rows:
                return
            yield from rows
            after = rows[-1].place.due

    def _make_room(self) -> None:
        """Let go of what was reported long ago, and of the oldest that was reported where the file is nearly full."""
        short = self._sealed.table.free_pages() < 2 * self._reserve
        oldest = self._sealed.rows_after(SETTLED, 0, _TOGETHER if short else 2)
        over = oldest if short else [row for row in oldest if self._is_over(row)]
        if not over:
            return
        with self._sealed.writing(durable=False):
            for row in over:
                self._sealed.take_away(row)
        self._counts[SETTLED] -= len(over)

    def _refuse_the_last_pages(self, *, has_shares: bool) -> None:
        if has_shares and self._sealed.table.free_pages() < self._reserve:
            raise MemoryFull("the evidence log is full of shares that were not reported yet")

    def _is_over(self, row: Row) -> bool:
        link = self._open(row)
        at = _when(link)
        return at is not None and max(at, link.reported_at) + self._keep <= self._wall()

    @contextmanager
    def _trusting(self) -> Iterator[None]:
        """One call at a time. A log that is damaged is moved aside, to be looked at by people; another carries on."""
        with self._calls:
            try:
                yield
            except (StoreDamaged, Unsealed) as fault:
                try:
                    self._begin(self._home.begin_anew(self._key, self._sealed, f"{fault.text} {fault.detail}".strip()))
                except Fault as worse:
                    raise MemoryFull("the evidence log was damaged, and no other can be made") from worse
                raise MemoryFull("the evidence log was damaged: another one has begun") from fault


def _when(link: Link) -> float | None:
    """When what an entry tells of was: of one of a later release too, which cannot be read. None: it does not say."""
    try:
        dated = _dates.decode(link.entry)
    except (msgspec.MsgspecError, ValueError):
        return None
    return dated.at if dated.at is not None else dated.began_at


def _open_outage(tip: Tip, entry: Entry) -> tuple[float | None, float]:
    """Of a tip after an entry: when the outage began, and the newest time that is known of it."""
    if isinstance(entry, OutageEvidence):
        return (entry.began_at, entry.began_at) if entry.ended_at == 0 else (None, 0.0)
    return tip.open_outage, tip.noted if tip.open_outage is None else max(tip.noted, entry.at)


def _earlier(one: float | None, other: float | None) -> float | None:
    """When an outage began that is open: where two say so, the longer one counts."""
    return min((at for at in (one, other) if at is not None), default=None)


def _is_to_report(entry: Entry) -> bool:
    return isinstance(entry, ShareEvidence) and entry.allowed


def _name(seq: int) -> bytes:
    return seq.to_bytes(8, "big")


def _decoded(decoder: msgspec.msgpack.Decoder[T], record: bytes) -> T | None:
    try:
        return decoder.decode(record)
    except msgspec.MsgspecError:
        return None


def _read(record: bytes) -> Link:
    try:
        return _links.decode(record)
    except msgspec.MsgspecError as error:
        raise StoreDamaged("a record of the evidence log has another form") from error
