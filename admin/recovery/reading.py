"""Reading a recovery from the ledger: whether it is under way, and where it stands."""

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from admin.consents.commands import UnknownConsent, consent_of
from admin.ledger.events import RecoveryReported, RecoveryTold, event_of, reported_subject, told_subject
from admin.ledger.store import FeedRecord, LedgerDamaged, LedgerReader, SubjectState
from admin.recovery.standing import Party, Standing, Told, is_whole
from engine.clock import Seconds, UnixTime
from engine.consent.records import ConsentId, ParticipantRecord, Role
from engine.consent.recovery import NO_PAST, Past, Recovery, past_of
from engine.consent.states import ENDED
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind, Position

PAGE: Final = 1_000
TOLD_PAGE: Final = 400  # consents that were told of, read at once
FRESH_FOR: Final = Seconds(0.5)  # of what is remembered of the past, for pages; never for a decision to write
REPORTERS: Final = (Role.NODE, Role.ATP, Role.EDP)

_participant: Final = msgspec.msgpack.Decoder(ParticipantRecord)


class NotRestored(Fault):
    """The ledger was never restored: nothing was lost, and nothing is to be reported."""

    kind = Kind.CONFLICT


class Recovering(Fault):
    """Not while the ledger is recovering: it may have lost what this rests on."""

    kind = Kind.UNAVAILABLE


class Restored(msgspec.Struct, frozen=True):
    """The newest restore, and the recovery if it is still under way. since: what is newer is this ledger's own."""

    past: Past
    recovery: Recovery | None
    since: int
    covers_from: UnixTime  # from when on reports must tell


class RecoveryReader:
    """Reads; whoever only shows gets this half."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self._remembered: tuple[float, Past] | None = None
        self._standing: tuple[Position, Standing] | None = None

    async def past(self) -> Past:
        """The ledger's restores, at most FRESH_FOR old. Raises the ledger's faults."""
        now = trio.current_time()
        if self._remembered is None or now - self._remembered[0] > FRESH_FOR:
            self._remembered = (now, await self._read_past())
        return self._remembered[1]

    async def recovery(self) -> Recovery | None:
        """The recovery under way, as `past`; None = the ledger is live."""
        return (await self.past()).recovery()

    async def in_words(self) -> str:
        """For the status page, so without names: what is missing before the ledger can go live; "" = it is live."""
        if await self.recovery() is None:
            return ""
        standing = await self.standing()
        doubts, ended, missing = len(standing.in_doubt), standing.ended, len(standing.missing)
        told = f"{doubts} consents in doubt, {ended} ended by what was told"
        return f"{told}; reports missing: {missing}, events untold: {standing.untold}"

    async def refuse_claims(self) -> None:
        """Raises Recovering: claims of the gap are lost, so a one-off could be claimed a second time."""
        if await self.recovery() is not None:
            raise Recovering("no one-off consent can be claimed while the ledger is recovering")

    async def standing(self) -> Standing:
        """Where the newest recovery stands; read once for one position. Raises NotRestored, and the ledger's faults."""
        head = (await self._ledger.head()).position  # before the rest: what is read is at least this new
        if self._standing is None or self._standing[0] != head:
            self._standing = (head, await self._read_standing())
        return self._standing[1]

    async def _read_standing(self) -> Standing:
        restored = await self.restored()
        newest = restored.past.newest()
        assert newest is not None  # noqa: S101 - `restored` has looked
        ended_under = next(name for name, found in restored.past.restores.items() if found == newest)
        parties = [await self._party(record, restored) for record in await self._participants()]
        told = await self._told(restored.since)
        return Standing(restored.recovery, newest[1], ended_under, tuple(parties), tuple(told))

    async def _read_past(self) -> Past:
        records = await self._ledger.records((int(EntryKind.RECOVERY), b""), PAGE)
        found = [(seq, one.key, one.record) for seq, one in records if one.kind == EntryKind.RECOVERY]
        try:
            return past_of(found) if found else NO_PAST
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise LedgerDamaged("a restore's record cannot be read", detail=str(error)) from error

    async def restored(self) -> Restored:
        """Raises NotRestored, and the ledger's faults."""
        past = await self._read_past()
        newest = past.newest()
        if newest is None:
            raise NotRestored("the ledger was never restored: nothing is to be reported")
        recovery = past.recovery()
        if recovery is None:
            return Restored(past, None, newest[0], newest[1].gap_from)
        return Restored(past, recovery, recovery.since, recovery.gap_from)

    async def _records(self, kind: EntryKind) -> list[tuple[int, FeedRecord]]:
        records, after = list[tuple[int, FeedRecord]](), (int(kind), b"")
        while True:
            page = [found for found in await self._ledger.records(after, PAGE) if found[1].kind == kind]
            records += page
            if len(page) < PAGE:
                return records
            after = (int(kind), page[-1][1].key)

    async def _participants(self) -> list[ParticipantRecord]:
        """Whoever must report, as far as the restored ledger knows them."""
        found = [_participant.decode(one.record) for _, one in await self._records(EntryKind.PARTICIPANT)]
        return [one for one in found if one.role in REPORTERS and not one.suspended]

    async def _party(self, record: ParticipantRecord, restored: Restored) -> Party:
        state = await self._ledger.subject(reported_subject(record.client_id))
        event = None if state is None or state.event.position.seq < restored.since else event_of(state.event)
        is_there = isinstance(event, RecoveryReported) and is_whole(event, restored.covers_from)
        return Party(record.client_id, record.role, event if is_there and isinstance(event, RecoveryReported) else None)

    async def _told(self, since: int) -> list[Told]:
        told = list[Told]()
        doubts = await self._records(EntryKind.DOUBT)
        consents = [ConsentId(str(uuid.UUID(bytes=doubt.key))) for seq, doubt in doubts if seq > since]
        for start in range(0, len(consents), TOLD_PAGE):
            told += await self._told_of(consents[start : start + TOLD_PAGE])
        return told

    async def _told_of(self, consents: Sequence[ConsentId]) -> list[Told]:
        """One statement for all of them: after a restore there may be very many."""
        names = [name for one in consents for name in (told_subject(one), f"consent:{one}")]
        found = {state.subject: state for state in await self._ledger.subjects(names)}
        told = list[Told]()
        for one in consents:
            state = found.get(told_subject(one))
            event = None if state is None else event_of(state.event)
            if state is not None and isinstance(event, RecoveryTold):
                told.append(_with_consent(event, state.event.position.seq, found.get(f"consent:{one}")))
        return told

    def forget(self) -> None:
        """Read anew at the next call: somebody here has just ended the recovery."""
        self._remembered = None


def _with_consent(event: RecoveryTold, seq: int, state: SubjectState | None) -> Told:
    if state is None:
        return Told(event, seq)
    try:
        record = consent_of(state).consent
    except UnknownConsent as fault:
        raise LedgerDamaged("a consent's newest event is none", detail=fault.text) from fault
    return Told(event, seq, state.event.position.seq, record.state in ENDED)
