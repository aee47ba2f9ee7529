"""Taking reports of fallback shares: kept under the EDP, held against the ledger, told to operators where they look."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from admin.consents.commands import UnknownConsent, consent_of
from admin.ledger.claims import Claims
from admin.ledger.events import PolicyChanged, event_of
from admin.ledger.fallback_reports import FallbackReports
from admin.ledger.instances import Member
from admin.ledger.store import Idempotency, LedgerReader
from admin.metrics import FALLBACK_FLAGS, FALLBACK_OUTAGES, FALLBACK_SHARES
from admin.reports.fallback_forms import FallbackReport, Outage, ReportedShare, ShareForm
from admin.reports.judging import Flag, Knowledge, OutageRecord, flags_of, record_of
from engine.consent.records import ClientId, PolicyRecord
from engine.telemetry.logs import logger

ResultName = Literal["taken", "repeated", "contradicted", "unknown_consent"]
Members = Callable[[], Awaitable[Iterable[Member]]]

_log = logger("admin.reports")


class ShareResult(msgspec.Struct, frozen=True):
    """What became of one share.

    taken: it is kept now. repeated: it was reported before. contradicted: it was reported before, as something else.
    unknown_consent: kept, but there is no such consent, or it is not the caller's. flags: what should not be.
    """

    evidence_id: str
    result: ResultName
    flags: tuple[Flag, ...] = ()


class OutageResult(msgspec.Struct, frozen=True):
    """since: as reported. shown: whether nothing that the service knows speaks against it."""

    since: str
    shown: bool


class FallbackView(msgspec.Struct, frozen=True):
    """The results in the order of the shares and of the outages."""

    taken: int
    after_end: int
    shares: tuple[ShareResult, ...]
    outages: tuple[OutageResult, ...]


class KeptShareBody(msgspec.Struct, frozen=True):
    """What stands in a row. Stored as JSON: a new member has a default. outage_shown: see `OutageResult`."""

    share: ShareForm
    result: ResultName
    flags: tuple[Flag, ...]
    outage_shown: bool


_views: Final = msgspec.json.Decoder(FallbackView)
_bodies: Final = msgspec.json.Decoder(KeptShareBody)


class Fallback:
    """members: instances of engine nodes as they stand."""

    def __init__(self, ledger: LedgerReader, reports: FallbackReports, claims: Claims, members: Members) -> None:
        self._ledger = ledger
        self._reports = reports
        self._claims = claims
        self._members = members

    async def take(self, edp: ClientId, report: FallbackReport, key: Idempotency) -> FallbackView:
        """Keep a report and say what became of each share; the same for the same key.

        Raises ReportMismatch, LedgerUnavailable.
        """
        records = await self._records(edp, report.outages)
        results = await self._results(edp, report.shares)
        bodies = {
            share.form.evidence_id: _body(share, result, records[share.outage_since])
            for share, result in zip(report.shares, results, strict=True)
        }

        def answer(before: Mapping[str, bytes]) -> bytes:
            final = [_compared(result, before.get(result.evidence_id), bodies) for result in results]
            return msgspec.json.encode(_view(final, report.outages, records))

        made, replayed = await self._reports.take(edp, key.key, key.body_digest, bodies, answer)
        view = _views.decode(made)
        if not replayed:
            _tell(edp, view, records)
        return view

    async def _records(self, edp: ClientId, outages: Sequence[Outage]) -> dict[int, OutageRecord]:
        members = list(await self._members())
        found: dict[int, OutageRecord] = {}
        for outage in outages:
            claimed = await self._claims.count(edp, outage.since, outage.until)
            found[outage.since] = record_of(outage, members, claimed)
        return found

    async def _results(self, edp: ClientId, shares: Sequence[ReportedShare]) -> list[ShareResult]:
        policy = await self._policy()
        known: dict[str, Knowledge | None] = {}
        results = []
        for share in shares:
            consent_id = share.form.consent_id
            if consent_id not in known:
                known[consent_id] = await self._knowledge(edp, consent_id)
            found = known[consent_id]
            flags = () if found is None else flags_of(share, found, policy)
            results.append(ShareResult(share.form.evidence_id, "unknown_consent" if found is None else "taken", flags))
        return results

    async def _knowledge(self, edp: ClientId, consent_id: str) -> Knowledge | None:
        state = await self._ledger.subject(f"consent:{consent_id}")
        if state is None:
            return None
        try:
            found = Knowledge.of(consent_of(state).consent, state.event.recorded_at)
        except UnknownConsent:
            return None
        return found if found.concerns(edp) else None

    async def _policy(self) -> PolicyRecord:
        state = await self._ledger.subject("policy")
        event = None if state is None else event_of(state.event)
        return event.policy if isinstance(event, PolicyChanged) else PolicyRecord()


def kept_share(body: bytes) -> KeptShareBody:
    """A row's body."""
    return _bodies.decode(body)


def _body(share: ReportedShare, result: ShareResult, outage: OutageRecord) -> bytes:
    return msgspec.json.encode(KeptShareBody(share.form, result.result, result.flags, outage.is_shown))


def _compared(result: ShareResult, before: bytes | None, bodies: Mapping[str, bytes]) -> ShareResult:
    """With a share of the same evidence id that was reported under another key."""
    if before is None:
        return result
    same = kept_share(before).share == kept_share(bodies[result.evidence_id]).share
    return ShareResult(result.evidence_id, "repeated" if same else "contradicted")


def _view(
    results: Sequence[ShareResult], outages: Sequence[Outage], records: Mapping[int, OutageRecord]
) -> FallbackView:
    taken = sum(result.result in ("taken", "unknown_consent") for result in results)
    after_end = sum(Flag.AFTER_END in result.flags for result in results)
    shown = tuple(OutageResult(outage.form.since, records[outage.since].is_shown) for outage in outages)
    return FallbackView(taken, after_end, tuple(results), shown)


def _tell(edp: ClientId, view: FallbackView, records: Mapping[int, OutageRecord]) -> None:
    """Counts, and a security event where somebody has to look."""
    for result in view.shares:
        FALLBACK_SHARES.labels(result.result).inc()
    for since, record in records.items():
        FALLBACK_OUTAGES.labels("shown" if record.is_shown else "not_shown").inc()
        if not record.is_shown:
            nodes, answered = record.standing, record.answered
            _log.warning("security_claimed_outage_not_shown", edp=edp, since=since, nodes=nodes, answered=answered)
    wrong = {flag.value: sum(flag in result.flags for result in view.shares) for flag in Flag}
    odd = {name: sum(result.result == name for result in view.shares) for name in ("contradicted", "unknown_consent")}
    for flag, count in wrong.items():
        FALLBACK_FLAGS.labels(flag).inc(count)
    counts = {name: count for name, count in (wrong | odd).items() if count}
    if counts:
        _log.warning("security_fallback_shares", edp=edp, **counts)
    _log.info("fallback_reported", edp=edp, taken=view.taken, after_end=view.after_end)
