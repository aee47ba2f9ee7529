"""The consents' JSON API on the machine listener.

An ATP sees and changes its own consents only, operators all. Forms are read by the commands, strictly; answers to
writes are made from the event that was written, so that a repeated key gets the same answer.
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Caller, Callers, WrongRole
from admin.consents.details import full_form
from admin.consents.forms import GrantForm, RenewForm, RevokeForm, read_grant, read_renewal, read_revocation
from admin.consents.parties import Parties, consent_id_of
from admin.consents.revocations import MAX_WAIT, RevocationView, Waits, view_of
from admin.consents.service import Consents
from admin.edge import answer, json_text
from admin.ledger.events import (
    ConsentEvent,
    ConsentPersonal,
    ConsentRevoked,
    Person,
    decode_personal,
)
from admin.ledger.store import Idempotency, Receipt, SubjectState
from admin.openapi import operation
from admin.sandbox_only import LedgerKind, require_sandbox
from admin.writing import LostWrite, Place, Written, idempotency, place
from engine.clock import Seconds, UnixTime, format_utc
from engine.consent.narrowing import EnergyConsent
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import Role
from engine.consent.states import State
from engine.errors import Fault, Kind
from engine.feed.entries import Position

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
_SECONDS: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,3})?")
_ERASED: Final = ConsentPersonal(Person("", "", ""), ())


class NotRevoked(Fault):
    """The consent stands, or ended in another way."""

    kind = Kind.NOT_FOUND


class WaitQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """wait: seconds to wait for the revocation to be effective everywhere."""

    wait: Annotated[float, Meta(ge=0, le=float(MAX_WAIT))] = 0.0


class ConsentSummary(msgspec.Struct, frozen=True):
    """A consent after a write; the event at `position` is the write."""

    consent_id: str
    state: StateName
    consent_version: int
    consent_expires_at: str
    recorded_at: str
    position: Place


class ConsentView(msgspec.Struct, frozen=True):
    """A consent as it stands. consent: the full form; its meter points are gone once the person was erased."""

    client_id: str
    state: StateName
    consent_version: int
    edps: tuple[str, ...]
    consent: EnergyConsent
    position: Place


def consent_views(
    consents: Consents, callers: Callers, barrier: Waits, kind: LedgerKind, now: Callable[[], UnixTime]
) -> Blueprint:
    """Blueprint with the consents' calls."""
    views = Blueprint("consents", __name__)

    parties = Parties(callers, now)
    party, act_of = parties.calling, parties.act_of

    async def standing(consent_id: str, caller: Caller, wait: Seconds) -> RevocationView:
        """How far a revocation has come that was written some time ago, perhaps before the ledger was restored."""
        incarnation = await consents.incarnation()
        event, state = await consents.find(consent_id_of(consent_id), act_of(caller))
        if not isinstance(event, ConsentRevoked):
            raise NotRevoked("the consent was not revoked")
        committed_at = float(state.event.recorded_at) + 1  # at the latest: the event knows whole seconds
        receipt = Receipt(Position(incarnation, state.event.position.seq), state.version, committed_at)
        return view_of(event.consent_id, await barrier.wait_effective(receipt, wait))

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
        key = _key(caller, body)
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

        A consent that has ended, or a one-off, is not renewed but granted anew.
        """
        caller = await party()
        body = await json_text()
        key = _key(caller, body)
        form = read_renewal(body)
        return answer(_summary(await consents.renew(consent_id_of(consent_id), form, act_of(caller), key)))

    @views.post("/consents/<consent_id>/revoke")
    @operation(answers={200: RevocationView}, body=RevokeForm, query=WaitQuery, problems=(404, 409), keyed=True)
    async def revoke(consent_id: str) -> Response:
        """Revoke a consent.

        The answer says whether the revocation is recorded or already effective on every engine node; `wait` gives
        it time to become so. Once effective, no node answers the consent active.
        """
        caller = await party()
        wait = _wait(request.args.getlist("wait"))
        body = await json_text()
        key = _key(caller, body)
        form = read_revocation(body)
        written = await consents.revoke(consent_id_of(consent_id), form, act_of(caller), key)
        if written.receipt.replayed:
            return answer(await standing(consent_id, caller, wait))
        effect = await barrier.wait_effective(written.receipt, wait)
        return answer(view_of(_consent_event(written).consent_id, effect))

    @views.get("/consents/<consent_id>/revocation")
    @operation(answers={200: RevocationView}, query=WaitQuery, problems=(400, 404, 409))
    async def revocation(consent_id: str) -> Response:
        """Show how far a consent's revocation has come.

        Asked again it says the same, or more. Once effective it stays so; an admin application that has just been
        started, or did not take the revocation itself, may say `recorded` for about two seconds until it knows better.
        """
        caller = await party()
        wait = _wait(request.args.getlist("wait"))
        return answer(await standing(consent_id, caller, wait))

    return views


def _wait(given: list[str]) -> Seconds:
    if not given:
        return Seconds(0.0)
    if len(given) > 1 or not _SECONDS.fullmatch(given[0]) or float(given[0]) > MAX_WAIT:
        raise InvalidFields([Problem("wait", f"must be one number of seconds from 0 to {MAX_WAIT:.0f}")])
    return Seconds(float(given[0]))


def _key(caller: Caller, body: bytes) -> Idempotency:
    offered = request.headers.get("Idempotency-Key")
    return idempotency(caller.client_id, offered, request.method, request.path, body)


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
    )
