"""Healing for receivers: what has changed of their consents since a position, and all of them as they stand.

The snapshot's position is read before its first page. What changes while it is paged may show already, with a higher
version; whatever changes behind a page is an event after the position. So it may run ahead and never falls behind.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from admin.ledger.database import Database
from admin.ledger.events import ParticipantEvent, event_of
from admin.ledger.facts import party_version
from admin.ledger.listings import Listed, Stretch, Told, TooOld, read_changes, read_stretch
from admin.ledger.store import LedgerReader
from admin.recovery.reading import Recovering, RecoveryReader
from engine.clock import UnixTime
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.consent.states import State
from engine.events.facts import ConsentFact, PartyFact
from engine.events.sets import event_type, wire_state
from engine.feed.entries import EntryKind, Position

DEFAULT_LIMIT: Final = 500
MAX_LIMIT: Final = 1_000
PAGE: Final = 1_000  # participants read at once
MAX_CURSOR: Final = 200
_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_INCARNATION: Final = re.compile(r"[0-9a-f]{16}")

_participants: Final = msgspec.msgpack.Decoder(ParticipantRecord)
EventUri = Annotated[str, Meta(pattern="^https://")]
Seq = Annotated[int, Meta(ge=0, le=2**53)]


class ChangesQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """after_seq: up to where you know everything. incarnation: of the ledger that you know, if you do."""

    after_seq: Seq
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    incarnation: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")] = ""


class SnapshotQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """cursor: of the page before; left out for the first one."""

    cursor: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]+$", max_length=MAX_CURSOR)] = ""


class ConsentLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A consent after its event at `seq`; times in whole seconds since 1970. prev, event: of changes only.

    authorization_details: of one that is active, as in events, without meter points and the purpose's words.
    """

    seq: int
    consent_id: str
    consent_version: int
    state: str
    client_id: str
    effective_at: int
    event_timestamp: int
    expires_at: int | None = None
    authorization_details: tuple[dict[str, Any], ...] = ()
    prev: int | None = None
    event: str = ""


class PartyLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ATP as a whole after its event at `seq`."""

    seq: int
    client_id: str
    party_version: int
    suspended: bool
    event_timestamp: int
    prev: int | None = None
    event: str = ""


class ChangesView(msgspec.Struct, frozen=True):
    """Changes in the order of `seq`. as_of_seq: all that happened up to it is told, unless there is `more`."""

    incarnation: str
    as_of_seq: int
    consents: tuple[ConsentLine, ...]
    parties: tuple[PartyLine, ...]
    more: bool


class SnapshotView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of the snapshot, maybe empty. as_of_seq: the same on all. cursor: of the next one; the last has none."""

    incarnation: str
    as_of_seq: int
    consents: tuple[ConsentLine, ...]
    parties: tuple[PartyLine, ...]  # on the last page
    cursor: str | None = None


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a snapshot goes on. Whoever makes one up harms its own snapshot alone: whose the lines are is not in it."""

    incarnation: str
    as_of: int
    key: bytes


_cursors: Final = msgspec.msgpack.Decoder(_Cursor)


class Listings:
    """The listings over the ledger. Neither is given while the ledger is recovering from a restore."""

    def __init__(self, ledger: LedgerReader, database: Database, recovery: RecoveryReader) -> None:
        self._ledger = ledger
        self._database = database
        self._recovery = recovery

    async def changes(self, client_id: ClientId, asked: ChangesQuery) -> ChangesView:
        """Raises TooOld, also where the position is of another incarnation; Recovering."""
        head = await self._live_head()
        await self._refuse_lost(asked, head)
        found = await self._database.read(
            lambda connection: read_changes(connection, client_id, asked.after_seq, asked.limit)
        )
        lines = [_told_line(told) for told in found.told]
        return ChangesView(
            head.incarnation,
            found.as_of,
            tuple(line for line in lines if isinstance(line, ConsentLine)),
            tuple(line for line in lines if isinstance(line, PartyLine)),
            found.more,
        )

    async def snapshot(self, caller: ParticipantRecord, asked: SnapshotQuery) -> SnapshotView:
        """Raises InvalidFields; TooOld where the cursor is of another incarnation; Recovering."""
        head = await self._live_head()
        cursor = _read_cursor(asked.cursor) if asked.cursor else _Cursor(head.incarnation, head.seq, b"")
        if cursor.incarnation != head.incarnation or cursor.as_of > head.seq:
            raise TooOld("the ledger was restored: begin the snapshot anew")
        found = await self._database.read(
            lambda connection: read_stretch(connection, caller.client_id, cursor.key, DEFAULT_LIMIT)
        )
        return await self._page(caller, cursor, found)

    async def _page(self, caller: ParticipantRecord, cursor: _Cursor, found: Stretch) -> SnapshotView:
        last = found.next_key is None
        after = (
            None if found.next_key is None else _cursor_text(_Cursor(cursor.incarnation, cursor.as_of, found.next_key))
        )
        return SnapshotView(
            cursor.incarnation,
            cursor.as_of,
            tuple(_listed_line(one) for one in found.consents),
            tuple(await self._parties(caller)) if last else (),
            after,
        )

    async def _parties(self, caller: ParticipantRecord) -> list[PartyLine]:
        """The ATPs that a caller hears of: an EDP of all, an ATP of itself."""
        own = caller.role is Role.ATP
        atps = [caller.client_id] if own else [one.client_id for one in await self._all(Role.ATP)]
        return [line for atp in atps if (line := await self._party(atp)) is not None]

    async def _party(self, client_id: ClientId) -> PartyLine | None:
        state = await self._ledger.subject(f"participant:{client_id}")
        event = None if state is None else event_of(state.event)
        if state is None or not isinstance(event, ParticipantEvent):
            return None
        seq, at, suspended = state.event.position.seq, state.event.recorded_at, event.participant.suspended
        return PartyLine(seq, client_id, party_version(seq, state.floor), suspended, at)

    async def _all(self, role: Role) -> list[ParticipantRecord]:
        found: list[ParticipantRecord] = []
        after = (int(EntryKind.PARTICIPANT), b"")
        while page := [one for _, one in await self._ledger.records(after, PAGE) if one.kind == EntryKind.PARTICIPANT]:
            found += [_participants.decode(one.record) for one in page]
            after = (int(EntryKind.PARTICIPANT), page[-1].key)
        return [one for one in found if one.role is role]

    async def _live_head(self) -> Position:
        """Where the ledger stands. Raises Recovering: it may show as active what was revoked in the gap."""
        if await self._recovery.recovery() is not None:
            raise Recovering("the ledger is recovering from a restore: ask again when it is live")
        return (await self._ledger.head()).position

    async def _refuse_lost(self, asked: ChangesQuery, head: Position) -> None:
        """A position in what a restore has lost names an event that is not there any more."""
        if asked.incarnation not in ("", head.incarnation):
            raise TooOld("this position is of another incarnation of the ledger: take the snapshot")
        restores = (await self._recovery.past()).restores.values()
        if any(restore.restored_seq < asked.after_seq < seq for seq, restore in restores):
            raise TooOld("what this position names was lost in a restore: take the snapshot")


def read_changes_query(given: Mapping[str, list[str]]) -> ChangesQuery:
    """Read the query of the changes; each parameter once at most. Raises InvalidFields."""
    after, limit, incarnation = (given.get(name, []) for name in ("after_seq", "limit", "incarnation"))
    problems = []
    if len(after) != 1 or not _NUMBER.fullmatch(after[0]) or int(after[0]) > 2**53:
        problems.append(Problem("after_seq", "must be one position"))
    if len(limit) > 1 or not all(_NUMBER.fullmatch(text) and 1 <= int(text) <= MAX_LIMIT for text in limit):
        problems.append(Problem("limit", f"must be one number from 1 to {MAX_LIMIT}"))
    if len(incarnation) > 1 or not all(_INCARNATION.fullmatch(text) for text in incarnation):
        problems.append(Problem("incarnation", "must be one incarnation of a ledger"))
    if problems:
        raise InvalidFields(problems)
    return ChangesQuery(int(after[0]), int(limit[0]) if limit else DEFAULT_LIMIT, incarnation[0] if incarnation else "")


def read_snapshot_query(given: list[str]) -> SnapshotQuery:
    """Read the query of the snapshot. Raises InvalidFields."""
    if len(given) > 1 or not all(_CURSOR.fullmatch(text) for text in given):
        raise InvalidFields([Problem("cursor", "must be the cursor of the page before")])
    return SnapshotQuery(given[0] if given else "")


def _cursor_text(cursor: _Cursor) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode()


def _read_cursor(text: str) -> _Cursor:
    try:
        return _cursors.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (NotBase64, msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidFields([Problem("cursor", "must be the cursor of the page before")]) from None


def _told_line(told: Told) -> ConsentLine | PartyLine:
    fact = told.fact
    if isinstance(fact, PartyFact):
        at = fact.recorded_at
        return PartyLine(told.seq, fact.client_id, fact.version, fact.suspended, at, told.prev, event_type(fact))
    line = _consent_line(told.seq, fact, fact.expires_at)
    return msgspec.structs.replace(line, prev=told.prev, event=event_type(fact))


def _listed_line(listed: Listed) -> ConsentLine:
    return _consent_line(listed.seq, listed.fact, listed.consent.expires_at)


def _consent_line(seq: int, fact: ConsentFact, expires_at: UnixTime | None) -> ConsentLine:
    """Members are named one by one: reason and initiator stand in the fact, and in no line."""
    return ConsentLine(
        seq=seq,
        consent_id=fact.consent_id,
        consent_version=fact.consent_version,
        state=wire_state(fact.state),
        client_id=fact.client_id,
        effective_at=fact.effective_at,
        event_timestamp=fact.recorded_at,
        expires_at=expires_at,
        authorization_details=fact.authorization_details if fact.state is State.ACTIVE else (),
    )
