"""The recovery's JSON API on the machine listener: what is asked of whom, reports, and going live.

Every participant may look: an operator sees all, everybody else what concerns itself. ATPs and EDPs report, nodes do so
through the feed service; operators let the ledger go live.
"""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Caller, Callers
from admin.edge import answer, json_text
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Idempotency
from admin.openapi import operation
from admin.recovery.reading import NotRestored, RecoveryReader
from admin.recovery.service import RecoveryService
from admin.recovery.standing import Party, Standing, Told
from admin.recovery.tellings import ReportForm, Result, Teller, read_report
from admin.writing import Place, idempotency, place
from engine.clock import UnixTime, format_utc
from engine.consent.reading import InvalidFields, Problem, read_struct, strict_json
from engine.consent.records import Role

MAX_LISTED: Final = 1_000  # consents in one answer; their number is told beside them

Name = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
RoleName = Literal["atp", "edp", "node", "operator"]
_ROLES: Final[dict[Role, RoleName]] = {
    Role.ATP: "atp",
    Role.EDP: "edp",
    Role.NODE: "node",
    Role.OPERATOR: "operator",
}


class PartyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A participant that must report. known_to: of a node, up to which position it knew the incarnation that ended."""

    client_id: str
    role: RoleName
    reported: bool
    told_at: str = ""
    told: int = 0
    known_to: int = 0


class DoubtView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A consent that was touched in the gap and of which the ledger has no newer word."""

    consent_id: str
    change: str
    told_by: str
    known: bool  # to this ledger; else it was granted in the gap and has to be granted again
    parties: tuple[str, ...] = ()
    evidence: str = ""


class RecoveryView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the recovery stands. gap_from, gap_to: what was recorded between them may be lost.

    obstacles: what going live has to be `without`. untold: events that somebody had reported and nobody tells.
    """

    state: Literal["live", "recovering"]
    restored: bool
    gap_from: str = ""
    gap_to: str = ""
    restored_seq: int = 0
    reported_seq: int = 0
    told_to: int = 0
    untold: int = 0
    ended: int = 0
    doubts: int = 0
    in_doubt: tuple[DoubtView, ...] = ()
    parties: tuple[PartyView, ...] = ()
    obstacles: tuple[str, ...] = ()
    to_look_at: tuple[str, ...] = ()


class ItemResult(msgspec.Struct, frozen=True):
    """What became of one item."""

    consent_id: str
    result: Result


class ReportView(msgspec.Struct, frozen=True):
    """The results in the order of the items. complete: the caller counts as having reported."""

    complete: bool
    results: tuple[ItemResult, ...]
    position: Place


class GoLiveForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """without: whom and what the ledger goes live in spite of; then a reason is required."""

    without: Annotated[tuple[Name, ...], Meta(max_length=1_000)] = ()
    reason: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,40}$")] | None = None


class LiveView(msgspec.Struct, frozen=True):
    """The ledger went live."""

    state: Literal["live"]
    without: tuple[str, ...]
    reported: int
    ended: int
    in_doubt: int
    position: Place


def recovery_views(
    service: RecoveryService, reader: RecoveryReader, callers: Callers, now: Callable[[], UnixTime]
) -> Blueprint:
    """Blueprint with the recovery's calls."""
    views = Blueprint("recovery", __name__)

    @views.get("/recovery")
    @operation(answers={200: RecoveryView})
    async def show() -> Response:
        """Show whether the ledger is recovering, and what of it concerns the caller.

        Operators see all parties and all consents in doubt; everybody else itself and its own.
        """
        caller = await callers.authenticate(request.scope)
        try:
            standing = await reader.standing()
        except NotRestored:
            return answer(RecoveryView("live", restored=False))
        return answer(_view(standing if caller.role is Role.OPERATOR else standing.of(caller.client_id)))

    @views.post("/recovery/reports")
    @operation(answers={200: ReportView}, body=ReportForm, problems=(409,), keyed=True)
    async def report() -> Response:
        """Report what was asked for, or told, about consents since the gap began.

        ATPs and EDPs, about their own consents. Each item gets a result of its own; a malformed report is refused
        as a whole. Repeating a report changes nothing.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.ATP, Role.EDP)
        body = await json_text()
        key = _key(caller, body)
        teller = Teller(caller.client_id, caller.role, now())
        told = read_report(body, teller)
        results, written = await service.take(told, teller, key)
        items = tuple(
            ItemResult(telling.consent_id, result) for telling, result in zip(told.tellings, results, strict=True)
        )
        return answer(ReportView(told.complete, items, place(written.receipt.position)))

    @views.post("/recovery/go-live")
    @operation(answers={200: LiveView}, body=GoLiveForm, problems=(409,), keyed=True)
    async def go_live() -> Response:
        """End the recovery: what the ledger says is the truth again.

        Operators only. Refused while a known party has not reported, unless `without` names it and `reason` says why.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        body = await json_text()
        key = _key(caller, body)
        form = _read_go_live(body)
        act = Act(Initiator.OPERATOR, caller.client_id, Route.API, now(), reason=form.reason)
        event, written = await service.go_live(act, frozenset(form.without), key)
        position = place(written.receipt.position)
        return answer(LiveView("live", event.without, event.reported, event.ended, event.in_doubt, position))

    return views


def _read_go_live(body: bytes) -> GoLiveForm:
    form = read_struct(strict_json(body), GoLiveForm)
    if form.without and form.reason is None:
        raise InvalidFields([Problem("reason", "is missing: going live without somebody needs one")])
    return form


def _key(caller: Caller, body: bytes) -> Idempotency:
    offered = request.headers.get("Idempotency-Key")
    return idempotency(caller.client_id, offered, request.method, request.path, body)


def _view(standing: Standing) -> RecoveryView:
    restore, recovery = standing.restore, standing.recovery
    return RecoveryView(
        state="live" if recovery is None else "recovering",
        restored=True,
        gap_from=format_utc(restore.gap_from if recovery is None else recovery.gap_from),
        gap_to=format_utc(restore.gap_to if recovery is None else recovery.gap_to),
        restored_seq=restore.restored_seq,
        reported_seq=restore.reported_seq,
        told_to=standing.told_to,
        untold=standing.untold,
        ended=standing.ended,
        doubts=len(standing.in_doubt),
        in_doubt=tuple(_doubt(told) for told in standing.in_doubt[:MAX_LISTED]),
        parties=tuple(_party(party) for party in standing.parties),
        obstacles=standing.obstacles,
        to_look_at=standing.to_look_at,
    )


def _party(party: Party) -> PartyView:
    if party.report is None:
        return PartyView(party.client_id, _ROLES[party.role], reported=False)
    report = party.report
    told_at = format_utc(report.told_at)
    return PartyView(party.client_id, _ROLES[party.role], True, told_at, report.told, report.known_to)  # noqa: FBT003 - reported


def _doubt(told: Told) -> DoubtView:
    event = told.event
    known = told.consent_seq > 0
    return DoubtView(event.consent_id, event.change.value, event.teller, known, event.parties, event.evidence)
