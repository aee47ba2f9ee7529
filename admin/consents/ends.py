"""The calls that end a consent: taken back, or no longer valid; and how far an end has come."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Caller
from admin.consents.forms import InvalidForm, RevokeForm, read_invalidity, read_revocation
from admin.consents.parties import Parties, consent_id_of, key_of
from admin.consents.revocations import MAX_WAIT, RevocationView, Waits, view_of
from admin.consents.service import Consents
from admin.edge import answer, json_text
from admin.ledger.events import ConsentRevoked
from admin.ledger.store import Receipt
from admin.openapi import operation
from admin.writing import LostWrite, Written
from engine.clock import Seconds
from engine.consent.reading import InvalidFields, Problem
from engine.errors import Fault, Kind
from engine.feed.entries import Position

_SECONDS: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,3})?")


class NotRevoked(Fault):
    """The consent stands, or ended in another way."""

    kind = Kind.NOT_FOUND


class WaitQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """wait: seconds to wait for the revocation to be effective everywhere."""

    wait: Annotated[float, Meta(ge=0, le=float(MAX_WAIT))] = 0.0


class _Progress:
    """How far an end has come."""

    def __init__(self, consents: Consents, parties: Parties, barrier: Waits) -> None:
        self._consents = consents
        self._act_of = parties.act_of
        self._barrier = barrier

    async def standing(self, consent_id: str, caller: Caller, wait: Seconds) -> RevocationView:
        """Of a revocation that was written some time ago, perhaps before the ledger was restored. Raises NotRevoked."""
        incarnation = await self._consents.incarnation()
        event, state = await self._consents.find(consent_id_of(consent_id), self._act_of(caller))
        if not isinstance(event, ConsentRevoked):
            raise NotRevoked("the consent was not revoked")
        committed_at = float(state.event.recorded_at) + 1  # at the latest: the event knows whole seconds
        receipt = Receipt(Position(incarnation, state.event.position.seq), state.version, committed_at)
        return view_of(event, await self._barrier.wait_effective(receipt, wait))

    async def of(self, written: Written, consent_id: str, caller: Caller, wait: Seconds) -> RevocationView:
        """Of what has just been written, or was before under the same key. Raises NotRevoked, LostWrite."""
        if written.receipt.replayed:
            return await self.standing(consent_id, caller, wait)
        return view_of(_revoked(written), await self._barrier.wait_effective(written.receipt, wait))


def add_end_views(views: Blueprint, consents: Consents, parties: Parties, barrier: Waits) -> None:
    """Hang the calls on the consents' blueprint."""
    party, act_of = parties.calling, parties.act_of
    progress = _Progress(consents, parties, barrier)

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
        key = key_of(caller, body)
        form = read_revocation(body)
        written = await consents.revoke(consent_id_of(consent_id), form, act_of(caller), key)
        return answer(await progress.of(written, consent_id, caller, wait))

    @views.post("/consents/<consent_id>/invalid")
    @operation(answers={200: RevocationView}, body=InvalidForm, query=WaitQuery, problems=(404, 409), keyed=True)
    async def invalid(consent_id: str) -> Response:
        """Say that a consent is no longer valid, whatever its granter wants: it ends at once.

        `effective_from` is when it was valid for the last time; `data_to_flag` says what was taken after that.
        """
        caller = await party()
        wait = _wait(request.args.getlist("wait"))
        body = await json_text()
        key = key_of(caller, body)
        form = read_invalidity(body)
        written = await consents.invalidate(consent_id_of(consent_id), form, act_of(caller), key)
        return answer(await progress.of(written, consent_id, caller, wait))

    @views.get("/consents/<consent_id>/revocation")
    @operation(answers={200: RevocationView}, query=WaitQuery, problems=(400, 404, 409))
    async def revocation(consent_id: str) -> Response:
        """Show how far a consent's revocation has come.

        Asked again it says the same, or more. Once effective it stays so; an admin application that has just been
        started, or did not take the revocation itself, may say `recorded` for about two seconds until it knows better.
        """
        caller = await party()
        wait = _wait(request.args.getlist("wait"))
        return answer(await progress.standing(consent_id, caller, wait))


def _wait(given: list[str]) -> Seconds:
    if not given:
        return Seconds(0.0)
    if len(given) > 1 or not _SECONDS.fullmatch(given[0]) or float(given[0]) > MAX_WAIT:
        raise InvalidFields([Problem("wait", f"must be one number of seconds from 0 to {MAX_WAIT:.0f}")])
    return Seconds(float(given[0]))


def _revoked(written: Written) -> ConsentRevoked:
    if not isinstance(written.event, ConsentRevoked):
        raise LostWrite("the write under this key is no revocation")
    return written.event
