"""The consents' JSON API on the machine listener.

An ATP sees and changes its own consents only, operators all. Forms are read by the commands, strictly; answers to
writes are made from the event that was written, so that a repeated key gets the same answer.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Literal

import msgspec
from quart import Blueprint, Response

from admin.callers import Callers, WrongRole
from admin.consents.details import full_form
from admin.consents.ends import add_end_views
from admin.consents.forms import (
    GrantForm,
    RenewForm,
    read_grant,
    read_renewal,
)
from admin.consents.notices import add_notice_views
from admin.consents.parties import Parties, consent_id_of, key_of
from admin.consents.revocations import Waits
from admin.consents.service import Consents
from admin.edge import answer, json_text
from admin.ledger.events import (
    ConsentDisputed,
    ConsentEvent,
    ConsentPersonal,
    Person,
    decode_personal,
)
from admin.ledger.store import SubjectState
from admin.openapi import operation
from admin.sandbox_only import LedgerKind, require_sandbox
from admin.writing import LostWrite, Place, Written, place
from engine.clock import UnixTime, format_utc
from engine.consent.narrowing import EnergyConsent
from engine.consent.records import Role
from engine.consent.states import State

StateName = Literal[
    "requested",
    "active",
    "consumed",
    "expired",
    "revoked",
    "terminated_by_dispute",
    "superseded",
    "declined",
    "abandoned",
]
_STATES: Final[dict[State, StateName]] = {
    State.REQUESTED: "requested",
    State.ACTIVE: "active",
    State.CONSUMED: "consumed",
    State.EXPIRED: "expired",
    State.REVOKED: "revoked",
    State.TERMINATED_BY_DISPUTE: "terminated_by_dispute",
    State.SUPERSEDED: "superseded",
    State.DECLINED: "declined",
    State.ABANDONED: "abandoned",
}
_ERASED: Final = ConsentPersonal(Person("", "", ""), ())


class ConsentSummary(msgspec.Struct, frozen=True):
    """A consent after a write; the event at `position` is the write."""

    consent_id: str
    state: StateName
    consent_version: int
    consent_expires_at: str
    recorded_at: str
    position: Place


class DisputeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ended a consent that was disputed. respond_by: until when its ATP may answer; left out: never decided."""

    dispute_ref: str
    respond_by: str | None = None


class ConsentView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A consent as it stands. consent: the full form; its meter points are gone once the person was erased."""

    client_id: str
    state: StateName
    consent_version: int
    edps: tuple[str, ...]
    consent: EnergyConsent
    position: Place
    dispute: DisputeView | None = None


def consent_views(
    consents: Consents, callers: Callers, barrier: Waits, kind: LedgerKind, now: Callable[[], UnixTime]
) -> Blueprint:
    """Blueprint with the consents' calls."""
    views = Blueprint("consents", __name__)

    parties = Parties(callers, now)
    party, act_of = parties.calling, parties.act_of

    @views.post("/consents")
    @operation(answers={201: ConsentSummary}, body=GrantForm, problems=(409,), keyed=True)
    async def grant() -> Response:
        """Grant a consent directly.

        Sandbox only: elsewhere a consent comes from the consumer's journey. An ATP grants to itself, an operator to
        any ATP.
        """
        caller = await party()
        require_sandbox(kind)
        body = await json_text()
        key = key_of(caller, body)
        asked = read_grant(body, now())
        if caller.role is Role.ATP and asked.form.client_id != caller.client_id:
            raise WrongRole("an ATP grants to itself only")
        written = await consents.grant(asked, act_of(caller), key)
        granted = answer(_summary(written), HTTPStatus.CREATED)
        granted.headers["Location"] = f"/consents/{_consent_event(written).consent_id}"
        return granted

    @views.get("/consents/<consent_id>")
    @operation(answers={200: ConsentView}, problems=(404,))
    async def show(consent_id: str) -> Response:
        """Show a consent as it stands.

        The person behind it is never shown here.
        """
        caller = await party()
        event, state = await consents.find(consent_id_of(consent_id), act_of(caller))
        return answer(_view(event, state))

    @views.post("/consents/<consent_id>/renew")
    @operation(answers={200: ConsentSummary}, body=RenewForm, problems=(404, 409), keyed=True)
    async def renew(consent_id: str) -> Response:
        """Renew a consent: the same scope for longer.

        A consent that has ended, or a one-off, is not renewed but granted anew. An ATP names its evidence of what the
        consumer did.
        """
        caller = await party()
        body = await json_text()
        key = key_of(caller, body)
        form = read_renewal(body)
        return answer(_summary(await consents.renew(consent_id_of(consent_id), form, act_of(caller), key)))

    add_end_views(views, consents, parties, barrier)
    add_notice_views(views, consents, callers)
    return views


def _consent_event(written: Written) -> ConsentEvent:
    if not isinstance(written.event, ConsentEvent):
        raise LostWrite("the write under this key is not of a consent")
    return written.event


def _summary(written: Written) -> ConsentSummary:
    event = _consent_event(written)
    return ConsentSummary(
        consent_id=event.consent_id,
        state=_STATES[event.consent.state],
        consent_version=event.consent.consent_version,
        consent_expires_at=format_utc(event.consent.expires_at),
        recorded_at=format_utc(UnixTime(int(written.receipt.committed_at))),
        position=place(written.receipt.position),
    )


def _view(event: ConsentEvent, state: SubjectState) -> ConsentView:
    personal = _ERASED if state.personal is None else decode_personal(state.personal)
    record = event.consent
    return ConsentView(
        client_id=record.atp,
        state=_STATES[record.state],
        consent_version=record.consent_version,
        edps=record.edps,
        consent=full_form(event, personal),
        position=place(state.event.position),
        dispute=_dispute(event),
    )


def _dispute(event: ConsentEvent) -> DisputeView | None:
    if not isinstance(event, ConsentDisputed):
        return None
    return DisputeView(event.case_id, None if event.respond_by is None else format_utc(event.respond_by))
