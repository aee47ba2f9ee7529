"""Stream management of SSF 1.0 section 8.1 on the machine listener: each receiver, its own streams."""

from collections.abc import Callable
from http import HTTPStatus

from quart import Blueprint, Response, request

from admin.callers import Caller, Callers
from admin.directory.stream_forms import (
    MAX_BODY,
    AnyStreamQuery,
    ChangeForm,
    ConfirmForm,
    Face,
    StatusForm,
    StatusView,
    StreamForm,
    StreamQuery,
    StreamView,
    VerifyForm,
    read_stream_query,
    status_of,
    status_view,
    wanted_of,
)
from admin.directory.stream_service import Streams
from admin.edge import answer, read_json
from admin.ledger.events import Act, Initiator, Route
from admin.openapi import operation
from engine.clock import UnixTime
from engine.consent.records import Role


class Receivers:
    """The receivers among the callers: ATPs and EDPs."""

    def __init__(self, callers: Callers, now: Callable[[], UnixTime]) -> None:
        self._callers = callers
        self._now = now

    async def calling(self) -> Caller:
        """The caller of the request at hand. Raises UnknownCaller, SuspendedCaller, WrongRole."""
        return (await self._callers.authenticate(request.scope)).require(Role.ATP, Role.EDP)

    def act_of(self, caller: Caller) -> Act:
        """What it does, as evidence."""
        initiator = Initiator.ATP if caller.role is Role.ATP else Initiator.EDP
        return Act(initiator, caller.client_id, Route.API, self._now())


def stream_views(streams: Streams, receivers: Receivers, face: Face) -> Blueprint:
    """Blueprint with the streams' calls; none takes an idempotency key, which SSF does not know."""
    views = Blueprint("streams", __name__)
    _add_streams(views, streams, receivers, face)
    _add_changes(views, streams, receivers, face)
    _add_status(views, streams, receivers)
    _add_verification(views, streams, receivers)
    return views


def _add_streams(views: Blueprint, streams: Streams, receivers: Receivers, face: Face) -> None:
    """Create and show."""

    @views.post("/ssf/streams")
    @operation(answers={201: StreamView}, body=StreamForm, problems=(409, 429))
    async def create() -> Response:
        """Create a stream of security events.

        For ATPs and EDPs, one for push and one for poll. A poll stream works at once; a push stream starts paused, and
        a verification event with `ccs_challenge` is sent to its address, to be confirmed.
        """
        caller = await receivers.calling()
        wanted = wanted_of(await read_json(StreamForm, MAX_BODY))
        made = await streams.create(caller.participant, wanted, receivers.act_of(caller))
        shown = answer(face.view_of(made), HTTPStatus.CREATED)
        shown.headers["Location"] = f"/ssf/streams?stream_id={made.stream_id}"
        return shown

    @views.get("/ssf/streams")
    @operation(answers={200: StreamView | tuple[StreamView, ...]}, query=AnyStreamQuery, problems=(400, 404))
    async def show() -> Response:
        """Show one of your streams, or all of them.

        With `stream_id` one object, without it an array.
        """
        caller = await receivers.calling()
        stream_id = read_stream_query(request.args.getlist("stream_id"), required=False)
        if stream_id:
            return answer(face.view_of(await streams.find(caller.client_id, stream_id)))
        return answer(tuple(face.view_of(one) for one in await streams.living(caller.client_id)))


def _add_changes(views: Blueprint, streams: Streams, receivers: Receivers, face: Face) -> None:
    """Change and delete."""

    async def changed(*, replace: bool) -> Response:
        caller = await receivers.calling()
        form = await read_json(ChangeForm, MAX_BODY)
        after = await streams.change(
            caller.client_id,
            form.stream_id,
            lambda stream: face.wanted_by(form, stream, replace=replace),
            receivers.act_of(caller),
        )
        return answer(face.view_of(after))

    @views.patch("/ssf/streams")
    @operation(answers={200: StreamView}, body=ChangeForm, problems=(404, 409, 429))
    async def update() -> Response:
        """Change some values of a stream.

        Members that are left out stay as they are. Another address has to be confirmed before it is used; 403 where no
        other stream works meanwhile.
        """
        return await changed(replace=False)

    @views.put("/ssf/streams")
    @operation(answers={200: StreamView}, body=ChangeForm, problems=(404, 409, 429))
    async def replace() -> Response:
        """Replace the values of a stream.

        Members that are left out are deleted; a push stream cannot be without an address.
        """
        return await changed(replace=True)

    @views.delete("/ssf/streams")
    @operation(answers={204: None}, query=StreamQuery, problems=(400, 404, 409))
    async def delete() -> Response:
        """Delete a stream.

        403 for the last one that works: a receiver keeps a way to hear of revocations.
        """
        caller = await receivers.calling()
        stream_id = read_stream_query(request.args.getlist("stream_id"), required=True)
        await streams.delete(caller.client_id, stream_id, receivers.act_of(caller))
        return _nothing()


def _add_status(views: Blueprint, streams: Streams, receivers: Receivers) -> None:
    """Whether events flow."""

    @views.get("/ssf/status")
    @operation(answers={200: StatusView}, query=StreamQuery, problems=(400, 404))
    async def show_status() -> Response:
        """Show a stream's status."""
        caller = await receivers.calling()
        stream_id = read_stream_query(request.args.getlist("stream_id"), required=True)
        return answer(status_view(await streams.find(caller.client_id, stream_id)))

    @views.post("/ssf/status")
    @operation(answers={200: StatusView}, body=StatusForm, problems=(404, 409))
    async def set_status() -> Response:
        """Enable, pause or disable a stream.

        A pause ends by itself after fifteen minutes. 403 for the last stream that works, for one whose address is not
        confirmed and for one that an operator has paused.
        """
        caller = await receivers.calling()
        form = await read_json(StatusForm)
        act = receivers.act_of(caller)
        after = await streams.set_status(caller.client_id, form.stream_id, status_of(form.status), form.reason, act)
        return answer(status_view(after))


def _add_verification(views: Blueprint, streams: Streams, receivers: Receivers) -> None:
    """That a stream works, and that its address is its receiver's."""

    @views.post("/ssf/verify")
    @operation(answers={204: None}, body=VerifyForm, problems=(404, 409, 429))
    async def verify() -> Response:
        """Ask for a verification event.

        It comes by the stream itself, with your `state`. While a push stream's address is not confirmed, a new
        challenge comes in its place.
        """
        caller = await receivers.calling()
        form = await read_json(VerifyForm)
        await streams.verify(caller.client_id, form.stream_id, form.state, receivers.act_of(caller))
        return _nothing()

    @views.post("/ssf/confirm")
    @operation(answers={200: StatusView}, body=ConfirmForm, problems=(404, 409))
    async def confirm() -> Response:
        """Confirm that a push stream's address is yours.

        Within an hour, in five tries, with the challenge that was sent there. The stream is then enabled.
        """
        caller = await receivers.calling()
        form = await read_json(ConfirmForm)
        act = receivers.act_of(caller)
        return answer(status_view(await streams.confirm(caller.client_id, form.stream_id, form.challenge, act)))


def _nothing() -> Response:
    """204, without a body and without a word on what kind of body it is."""
    empty = Response(b"", status=HTTPStatus.NO_CONTENT)
    empty.headers.pop("Content-Type", None)
    return empty
