"""Reports on the machine listener: EDPs report their fallback shares, operators look at them."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Callers
from admin.edge import answer, json_text
from admin.ledger.fallback_reports import FallbackReports, KeptShare
from admin.openapi import operation
from admin.reports.fallback import Fallback, FallbackView, ResultName, kept_share
from admin.reports.fallback_forms import MAX_BYTES, FallbackReportForm, read_fallback_report
from admin.writing import idempotency
from engine.clock import UnixTime, format_utc
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, Role

LISTED: Final = 100
MAX_LISTED: Final = 1_000
_CLIENT_ID: Final = re.compile("[a-z0-9-]{1,40}")
_NUMBER: Final = re.compile("[1-9][0-9]{0,3}")


class SharesQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """edp: of one EDP only. limit: how many at most."""

    edp: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = LISTED


class SharesRow(msgspec.Struct, frozen=True):
    """A share as operators see it: no token, no meter point, no person."""

    edp: str
    evidence_id: str
    received_at: str
    at: str
    outage_since: str
    consent_id: str
    consent_version: int
    client_id: str
    dataset_id: str
    result: ResultName
    flags: tuple[str, ...]
    outage_shown: bool


class SharesView(msgspec.Struct, frozen=True):
    """The newest first."""

    shares: tuple[SharesRow, ...]


def report_views(
    fallback: Fallback, reports: FallbackReports, callers: Callers, now: Callable[[], UnixTime]
) -> Blueprint:
    """Blueprint with the reports' calls."""
    views = Blueprint("reports", __name__)

    @views.post("/shares/fallback")
    @operation(answers={200: FallbackView}, body=FallbackReportForm, problems=(409,), keyed=True)
    async def report() -> Response:
        """Report shares that were made on what was known, while nobody could be asked.

        EDPs, about their own consents. Each share gets a result of its own and is kept once, under its evidence id; a
        malformed report is refused as a whole. The same key with the same body gets the same answer.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.EDP)
        body = await json_text(MAX_BYTES)
        offered = request.headers.get("Idempotency-Key")
        key = idempotency(caller.client_id, offered, request.method, request.path, body)
        return answer(await fallback.take(caller.client_id, read_fallback_report(body, now()), key))

    @views.get("/shares/fallback")
    @operation(answers={200: SharesView}, query=SharesQuery, problems=(400,))
    async def show() -> Response:
        """List the fallback shares that were reported last. Operators only."""
        (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        query = read_query(request.args.to_dict(flat=False))
        found = await reports.newest(query.limit, ClientId(query.edp) if query.edp else None)
        return answer(SharesView(tuple(_row(kept) for kept in found)))

    return views


def read_query(given: Mapping[str, list[str]]) -> SharesQuery:
    """Each parameter once at most. Raises InvalidFields."""
    edp, limit = given.get("edp", []), given.get("limit", [])
    problems = []
    if len(edp) > 1 or not all(_CLIENT_ID.fullmatch(text) for text in edp):
        problems.append(Problem("edp", "must be one client_id"))
    if len(limit) > 1 or not all(_NUMBER.fullmatch(text) and int(text) <= MAX_LISTED for text in limit):
        problems.append(Problem("limit", f"must be one number from 1 to {MAX_LISTED}"))
    if problems:
        raise InvalidFields(problems)
    return SharesQuery(edp[0] if edp else "", int(limit[0]) if limit else LISTED)


def _row(kept: KeptShare) -> SharesRow:
    body = kept_share(kept.body)
    share = body.share
    return SharesRow(
        kept.client_id,
        kept.evidence_id,
        format_utc(UnixTime(int(kept.received_at))),
        share.at,
        share.outage_since,
        share.consent_id,
        share.consent_version,
        share.client_id,
        share.dataset_id,
        body.result,
        body.flags,
        body.outage_shown,
    )
