"""The directory's JSON API on the machine listener: operators write, each participant sees itself."""

from collections.abc import Callable
from http import HTTPStatus

from quart import Blueprint, Response, request

from admin.callers import Caller, Callers
from admin.directory.forms import (
    CertificatesForm,
    ListQuery,
    ParticipantForm,
    ParticipantsView,
    ParticipantView,
    UpdateForm,
    certificates_of,
    organisation_of,
    read_list_query,
    record_of,
    record_of_update,
    view_of,
)
from admin.directory.participants import Standing, UnknownParticipant
from admin.directory.service import Directory
from admin.edge import answer, json_text, read_json
from admin.ledger.events import Act, Initiator, ParticipantEvent, Route
from admin.ledger.store import Idempotency
from admin.openapi import operation
from admin.writing import LostWrite, Written, idempotency, place
from engine.clock import UnixTime
from engine.consent.records import ClientId, Role


class Operators:
    """The operators among the callers."""

    def __init__(self, callers: Callers, now: Callable[[], UnixTime]) -> None:
        self._callers = callers
        self._now = now

    async def calling(self) -> Caller:
        """The caller of the request at hand. Raises UnknownCaller, SuspendedCaller, WrongRole."""
        return (await self._callers.authenticate(request.scope)).require(Role.OPERATOR)

    def act_of(self, caller: Caller) -> Act:
        """What it does, as evidence."""
        return Act(Initiator.OPERATOR, caller.client_id, Route.API, self._now())


def directory_views(directory: Directory, callers: Callers, now: Callable[[], UnixTime]) -> Blueprint:
    """Blueprint with the directory's calls."""
    views = Blueprint("directory", __name__)
    operators = Operators(callers, now)
    _add_registration(views, directory, operators)
    _add_readings(views, directory, callers)
    _add_changes(views, directory, operators)
    _add_suspension(views, directory, operators)
    return views


def _add_registration(views: Blueprint, directory: Directory, operators: Operators) -> None:
    """Register a participant."""

    @views.post("/participants")
    @operation(answers={201: ParticipantView}, body=ParticipantForm, problems=(409,), keyed=True)
    async def register() -> Response:
        """Register a participant.

        Operators only. A client_id and each certificate stand for one participant and no other.
        """
        caller = await operators.calling()
        key = await _key(caller)
        form = await read_json(ParticipantForm)
        written = await directory.register(
            record_of(form), organisation_of(form.organisation), operators.act_of(caller), key
        )
        return _shown(written, HTTPStatus.CREATED)


def _add_readings(views: Blueprint, directory: Directory, callers: Callers) -> None:
    """What stands in the directory: operators see all, everybody else itself."""

    @views.get("/participants")
    @operation(answers={200: ParticipantsView}, query=ListQuery, problems=(400,))
    async def show_all() -> Response:
        """List participants by client_id, page by page.

        Operators see all; everybody else sees itself alone. While `next` is there, send it as `after` for the page
        behind this one.
        """
        caller = await callers.authenticate(request.scope)
        asked = read_list_query(request.args.to_dict(flat=False))
        if caller.role is Role.OPERATOR:
            found, more = await directory.page(asked.after, asked.limit)
        else:
            found, more = [await directory.find(caller.client_id)] if asked.after < caller.client_id else [], False
        shown = tuple(view_of(standing, state.version, place(state.event.position)) for standing, state in found)
        return answer(ParticipantsView(shown, shown[-1].client_id if more else ""))

    @views.get("/participants/<client_id>")
    @operation(answers={200: ParticipantView}, problems=(404,))
    async def show(client_id: str) -> Response:
        """Show a participant.

        Operators see all; everybody else sees itself and gets 404 for others.
        """
        caller = await callers.authenticate(request.scope)
        if caller.role is not Role.OPERATOR and caller.client_id != client_id:
            raise UnknownParticipant("no participant of this client_id is registered")
        standing, state = await directory.find(ClientId(client_id))
        return answer(view_of(standing, state.version, place(state.event.position)))


def _add_changes(views: Blueprint, directory: Directory, operators: Operators) -> None:
    """Change what is registered."""

    @views.put("/participants/<client_id>")
    @operation(answers={200: ParticipantView}, body=UpdateForm, problems=(404, 409), keyed=True)
    async def update(client_id: str) -> Response:
        """Change a participant's organisation, data sets, form of answers or limits.

        Operators only. Members that are left out take their defaults.
        """
        caller = await operators.calling()
        key = await _key(caller)
        form = await read_json(UpdateForm)
        organisation = organisation_of(form.organisation)
        written = await directory.update(
            ClientId(client_id), record_of_update(form), organisation, operators.act_of(caller), key
        )
        return _shown(written)

    @views.post("/participants/<client_id>/certificates")
    @operation(answers={200: ParticipantView}, body=CertificatesForm, problems=(404, 409), keyed=True)
    async def replace_certificates(client_id: str) -> Response:
        """Replace a participant's transport certificates.

        Operators only. Send the old one along to let both stand while machines change over.
        """
        caller = await operators.calling()
        key = await _key(caller)
        certificates = certificates_of((await read_json(CertificatesForm)).certificates)
        written = await directory.replace_certificates(ClientId(client_id), certificates, operators.act_of(caller), key)
        return _shown(written)


def _add_suspension(views: Blueprint, directory: Directory, operators: Operators) -> None:
    """Stop a participant, and end that."""

    @views.post("/participants/<client_id>/suspend")
    @operation(answers={200: ParticipantView}, problems=(400, 404, 409), keyed=True)
    async def suspend(client_id: str) -> Response:
        """Suspend a participant.

        Operators only. From the answer on nothing it asks here is answered; engines follow within a second.
        """
        caller = await operators.calling()
        written = await directory.suspend(
            ClientId(client_id), operators.act_of(caller), await _key(caller, bodiless=True)
        )
        return _shown(written)

    @views.post("/participants/<client_id>/reinstate")
    @operation(answers={200: ParticipantView}, problems=(400, 404, 409), keyed=True)
    async def reinstate(client_id: str) -> Response:
        """End a participant's suspension.

        Operators only.
        """
        caller = await operators.calling()
        written = await directory.reinstate(
            ClientId(client_id), operators.act_of(caller), await _key(caller, bodiless=True)
        )
        return _shown(written)


async def _key(caller: Caller, *, bodiless: bool = False) -> Idempotency:
    body = b"" if bodiless else await json_text()
    return idempotency(caller.client_id, request.headers.get("Idempotency-Key"), request.method, request.path, body)


def _shown(written: Written, status: HTTPStatus = HTTPStatus.OK) -> Response:
    event = written.event
    if not isinstance(event, ParticipantEvent):
        raise LostWrite("the write under this key is not of a participant")
    standing = Standing(event.participant, event.organisation)
    shown = answer(view_of(standing, written.receipt.version, place(written.receipt.position)), status)
    if status is HTTPStatus.CREATED:
        shown.headers["Location"] = f"/participants/{event.participant.client_id}"
    return shown
