"""The recovery over the ledger: reports come in and become events, the standing is read, going live is one append.

Everything is kept in the ledger, so a process that is killed anywhere leaves it recovering or live, and whoever
reports again finds done what was done. Parties' own events are written before the event that says they have reported.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from admin.disputes.answering import AnswerTerm
from admin.ledger.events import (
    Act,
    Initiator,
    LedgerWentLive,
    ParticipantEvent,
    ParticipantSuspended,
    RecoveryReported,
    Route,
    TokenRevoked,
    append_of,
    event_of,
    reported_subject,
    told_subject,
)
from admin.ledger.store import Append, Idempotency, Ledger, LedgerDamaged, SubjectState, VersionConflict
from admin.recovery.reading import RecoveryReader, Restored
from admin.recovery.reconciling import REASON, Outcome, reconcile
from admin.recovery.standing import Standing
from admin.recovery.tellings import ENDS, Report, Result, Teller, Telling, told_by_node
from admin.writing import Written, write_together
from engine.clock import UnixTime
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, ConsentId, Role, TokenRevocation
from engine.errors import Fault, Kind
from engine.feed.gap_reports import GapReport, TouchedParticipant
from engine.telemetry.logs import logger

TOGETHER: Final = 100  # tellings in one append
ATTEMPTS: Final = 4  # as `writing.ATTEMPTS`
_log = logger("admin.recovery")
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_gap_report: Final = msgspec.json.Decoder(GapReport)


class NotRecovering(Fault):
    """The ledger is live."""

    kind = Kind.CONFLICT


class NotReconciled(Fault):
    """Something speaks against going live, and the call does not name it."""

    kind = Kind.CONFLICT


class AnotherLedger(Fault):
    """A node's report is about another incarnation than this ledger's, or says what cannot be."""

    kind = Kind.CONFLICT


class UnreadableReport(Fault):
    """A node's report of a gap that is not in the form that this program reads."""

    kind = Kind.INVALID


class _Tagged(msgspec.Struct):
    """Any report."""

    type: str = ""


class RecoveryService:
    """Writes. now: whole seconds since 1970. term: how long an ATP has to answer a dispute."""

    def __init__(
        self, ledger: Ledger, reader: RecoveryReader, now: Callable[[], UnixTime], term: AnswerTerm | None = None
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._now = now
        self._term = term or AnswerTerm()

    async def take(self, report: Report, teller: Teller, key: Idempotency) -> tuple[list[Result], Written]:
        """An ATP's or EDP's report: one result for each telling, in their order.

        Raises NotRestored, InvalidFields where it does not reach back to the gap's beginning, and what appending does.
        """
        await self._ledger.replayed(key)  # the same key with another body is refused before anything is written
        restored = await self._reader.restored()
        if report.since > restored.covers_from:
            raise InvalidFields([Problem("since", "must not be later than the beginning of the gap")])
        results = await self._reconcile_all(report.tellings, teller, restored.since)

        async def prepare(before: SubjectState | None) -> Sequence[Append]:
            event = RecoveryReported(
                teller.client_id, teller.role, teller.at, report.complete, len(report.tellings), report.since
            )
            return [append_of(event, 0 if before is None else before.version)]

        written = await write_together(self._ledger, reported_subject(teller.client_id), prepare, key)
        if not written.receipt.replayed:
            self._tell(teller, report.complete, results)
        return results, written

    async def take_from_nodes(self, client_id: ClientId, body: bytes) -> None:
        """Whatever a node reports; what is no report of a gap is passed over. Raises as `take_from_node`."""
        for raw in _array.decode(body):
            try:
                report = _gap_report.decode(raw)
            except msgspec.MsgspecError as error:
                if _names_gap(raw):
                    raise UnreadableReport("the report of a gap cannot be read", detail=str(error)) from error
                continue
            await self.take_from_node(report, client_id)

    async def take_from_node(self, report: GapReport, client_id: ClientId) -> None:
        """One part of what a node's old replica knew. Raises AnotherLedger, and what appending raises."""
        restored = await self._reader.restored()
        await self._check_node(report, client_id, restored)
        teller = Teller(client_id, Role.NODE, self._now())
        tellings = [told_by_node(touched) for touched in report.consents]
        results = await self._reconcile_all(tellings, teller, restored.since)
        await self._end_tokens(report, teller)
        for touched in report.participants:
            await self._suspend(touched, teller, restored.since)
        if report.part == report.parts:
            await self._note_node(report, teller, restored.since)
        self._tell(teller, report.part == report.parts, results)

    async def go_live(self, act: Act, without: frozenset[str], key: Idempotency) -> tuple[LedgerWentLive, Written]:
        """End the recovery. act.reason: why it goes live without somebody, if it does.

        Raises NotRestored, NotRecovering, NotReconciled; InvalidFields where `without` names what does not stand
        against it.
        """

        async def prepare(before: SubjectState | None) -> Sequence[Append]:
            standing = await self._reader.standing()
            if before is None or standing.recovery is None:
                raise NotRecovering("the ledger is live")
            return [append_of(_going_live(standing, act, without), before.version)]

        written = await write_together(self._ledger, "ledger", prepare, key)
        self._reader.forget()
        if not isinstance(written.event, LedgerWentLive):
            raise LedgerDamaged("the write under this key is no going live")
        if not written.receipt.replayed:
            _log.warning(
                "ledger_went_live",
                operator=act.actor,
                without=written.event.without,
                reason=act.reason,
                ended=written.event.ended,
                in_doubt=written.event.in_doubt,
            )
        return written.event, written

    async def _reconcile_all(self, tellings: Sequence[Telling], teller: Teller, since: int) -> list[Result]:
        results: list[Result] = []
        for start in range(0, len(tellings), TOGETHER):
            results += await self._reconcile_some(tellings[start : start + TOGETHER], teller, since)
        return results

    async def _reconcile_some(self, tellings: Sequence[Telling], teller: Teller, since: int) -> list[Result]:
        """In one append; where somebody was faster, or a consent is told of twice, each by itself."""
        outcomes = [await self._outcome(telling, teller, since) for telling in tellings]
        appends = [append for outcome in outcomes for append in outcome.appends]
        if appends:
            try:
                await self._ledger.append(appends)
            except VersionConflict:
                return [await self._reconcile_one(telling, teller, since) for telling in tellings]
        return [outcome.result for outcome in outcomes]

    async def _reconcile_one(self, telling: Telling, teller: Teller, since: int) -> Result:
        result = Result.KNOWN

        async def attempt() -> Sequence[Append]:
            nonlocal result
            outcome = await self._outcome(telling, teller, since)
            result = outcome.result
            return outcome.appends

        await self._append(attempt)
        return result

    async def _outcome(self, telling: Telling, teller: Teller, since: int) -> Outcome:
        consent = await self._ledger.subject(f"consent:{telling.consent_id}")
        told = await self._ledger.subject(told_subject(ConsentId(telling.consent_id)))
        return reconcile(telling, teller, consent, told, since, self._term)

    async def _append(self, prepare: Callable[[], Awaitable[Sequence[Append]]]) -> None:
        """What `prepare` makes, made anew while others are faster; nothing, where it makes nothing."""
        for left in reversed(range(ATTEMPTS)):
            appends = await prepare()
            if not appends:
                return
            try:
                await self._ledger.append(appends)
            except VersionConflict:
                if not left:
                    raise
            else:
                return

    async def _check_node(self, report: GapReport, client_id: ClientId, restored: Restored) -> None:
        head = (await self._ledger.head()).position
        if report.node_id != client_id:
            raise AnotherLedger("a node reports for itself")
        if report.missing_under != head.incarnation:
            raise AnotherLedger("the report is about another incarnation than this ledger's")
        if not report.known_under:
            if report.consents or report.tokens or report.participants:
                raise AnotherLedger("a node that knows nothing has nothing to tell")
            return
        found = restored.past.restores.get(report.known_under)
        if found is not None:
            _check_plausible(report, found[1].restored_seq)
        elif report.participants or any(told_by_node(one).change not in ENDS for one in report.consents):
            raise AnotherLedger("no restore of this ledger names the incarnation that the node knew: only ends count")

    async def _end_tokens(self, report: GapReport, teller: Teller) -> None:
        act = _system_act(teller)

        async def attempt() -> Sequence[Append]:
            appends = []
            for token in report.tokens:
                event = TokenRevoked(
                    bytes.fromhex(token.key), TokenRevocation(UnixTime(token.expires_at)), ClientId(""), act
                )
                append = append_of(event, 0)
                if await self._ledger.subject(append.subject) is None:
                    appends.append(append)
            return appends

        await self._append(attempt)

    async def _suspend(self, touched: TouchedParticipant, teller: Teller, since: int) -> None:
        """A suspension that was lost is written again, unless the ledger has a newer word. Others are for people."""
        if not touched.suspended:
            return

        async def attempt() -> Sequence[Append]:
            state = await self._ledger.subject(f"participant:{touched.client_id}")
            event = None if state is None else event_of(state.event)
            if state is None or not isinstance(event, ParticipantEvent):
                return []
            if event.participant.suspended or state.event.position.seq > since:
                return []
            record = msgspec.structs.replace(event.participant, suspended=True)
            suspended = ParticipantSuspended(record, event.organisation, _system_act(teller))
            return [append_of(suspended, state.version)]

        await self._append(attempt)

    async def _note_node(self, report: GapReport, teller: Teller, since: int) -> None:
        """That a node has told all; once, however often it says so."""
        participants = tuple(sorted({ClientId(one.client_id) for one in report.participants}))
        event = RecoveryReported(
            teller.client_id,
            teller.role,
            teller.at,
            complete=True,
            told=report.total,
            known_under=report.known_under,
            known_to=report.known_to,
            participants=participants,
            policy=report.policy,
        )

        async def attempt() -> Sequence[Append]:
            state = await self._ledger.subject(reported_subject(teller.client_id))
            if state is None:
                return [append_of(event, 0)]
            before = event_of(state.event)
            known = (report.known_under, report.known_to)
            said = (before.known_under, before.known_to) if isinstance(before, RecoveryReported) else None
            if state.event.position.seq > since and known in (said, ("", 0)):
                return []
            return [append_of(event, state.version)]

        await self._append(attempt)

    def _tell(self, teller: Teller, complete: bool, results: Sequence[Result]) -> None:
        counts = {result.value: results.count(result) for result in Result if result in results}
        _log.warning("recovery_told", by=teller.client_id, role=teller.role.name.lower(), complete=complete, **counts)


def _names_gap(raw: msgspec.Raw) -> bool:
    try:
        return msgspec.json.decode(raw, type=_Tagged).type == "replica.gap"
    except msgspec.MsgspecError:
        return False


def _check_plausible(report: GapReport, restored_seq: int) -> None:
    """Each event touches one thing: nobody can know of more things than events. Raises AnotherLedger.

    A replica may hold records beyond its position: those that were written while its snapshot was read.
    """
    furthest = max([report.known_to, *(touched.seq for touched in report.consents)])
    of_the_gap = sum(touched.seq > restored_seq for touched in report.consents)
    if of_the_gap + len(report.participants) > max(0, furthest - restored_seq):
        raise AnotherLedger("the report names more than the node can have known")


def _system_act(teller: Teller) -> Act:
    return Act(Initiator.SYSTEM, teller.client_id, Route.API, teller.at, reason=REASON)


def _going_live(standing: Standing, act: Act, without: frozenset[str]) -> LedgerWentLive:
    obstacles = frozenset(standing.obstacles)
    if unknown := sorted(without - obstacles - {str(party.client_id) for party in standing.parties}):
        raise InvalidFields([Problem("without", f"does not stand against going live: {', '.join(unknown)}")])
    if left := sorted(obstacles - without):
        raise NotReconciled(f"not reported: {', '.join(left)}")
    return LedgerWentLive(
        act,
        tuple(sorted(obstacles)),
        sum(party.report is not None for party in standing.parties),
        standing.ended,
        len(standing.in_doubt),
    )
