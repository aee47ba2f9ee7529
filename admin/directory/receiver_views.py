"""Receivers for operators: who is owed what, and pausing and enabling a stream on the receiver's behalf."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Caller, Callers
from admin.directory import streams
from admin.directory.participants import NoChange
from admin.directory.stream_forms import StatusName
from admin.directory.streams import UnknownStream
from admin.edge import answer, json_text, read_json
from admin.ledger.events import Act, Initiator, Route, StreamChanged, append_of, event_of, stream_subject
from admin.ledger.receiver_standing import Standing
from admin.ledger.store import Append, Idempotency, Ledger, SubjectState
from admin.openapi import operation
from admin.writing import LostWrite, Place, Written, idempotency, place, write
from engine.clock import UnixTime, format_utc
from engine.consent.records import Role
from engine.pusher.streams import DeliveryMethod, StreamRecord

MethodName = Literal["push", "poll"]
_METHODS: Final[dict[DeliveryMethod, MethodName]] = {DeliveryMethod.PUSH: "push", DeliveryMethod.POLL: "poll"}

ReadStandings = Callable[[], Awaitable[Sequence[Standing]]]


class PauseForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """reason: a code, kept in the ledger and told to the receiver."""

    reason: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,40}$")]


class ReceiverStreamView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stream as operators see it. confirmed: its address was shown to be its owner's. held: by an operator."""

    stream_id: str
    method: MethodName
    status: StatusName
    confirmed: bool
    held: bool
    endpoint_url: str = ""
    reason: str = ""
    description: str = ""
    paused_until: str = ""


class ReceiverView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A receiver and what it is owed; counts go to 10,000. oldest_unsent: when its event was written.

    unsent: not pushed yet. parked: pushed no more. unacknowledged: by poll. error: of the newest attempt.
    oldest_untold: when the oldest event was written that came to it in neither way, or could be told first.
    fallback_suspended_at: since when an EDP may not fall back, because of that; absent: it may.
    """

    client_id: str
    role: Literal["atp", "edp"]
    suspended: bool
    last_seq: int
    unsent: int
    parked: int
    unacknowledged: int
    streams: tuple[ReceiverStreamView, ...]
    oldest_unsent: str = ""
    error: str = ""
    oldest_untold: str = ""
    fallback_suspended_at: str = ""


class ReceiversView(msgspec.Struct, frozen=True):
    """All receivers that have streams, by client_id."""

    receivers: tuple[ReceiverView, ...]


class StreamHeldView(msgspec.Struct, frozen=True):
    """A stream after an operator's act, which is the event at `position`."""

    client_id: str
    stream: ReceiverStreamView
    position: Place


def receiver_views(ledger: Ledger, read: ReadStandings, callers: Callers, now: Callable[[], UnixTime]) -> Blueprint:
    """Blueprint with the operators' calls."""
    views = Blueprint("receivers", __name__)

    async def operator() -> Caller:
        return (await callers.authenticate(request.scope)).require(Role.OPERATOR)

    async def written(
        stream_id: str, caller: Caller, key: Idempotency, decide: Callable[[StreamRecord], StreamRecord]
    ) -> Response:
        if not streams.is_stream_id(stream_id):
            raise _unknown()
        act = Act(Initiator.OPERATOR, caller.client_id, Route.API, now())
        subject = stream_subject(stream_id)
        return answer(_held(await write(ledger, subject, lambda state: _changed(state, decide, act), key)))

    @views.get("/receivers")
    @operation(answers={200: ReceiversView})
    async def show() -> Response:
        """Show all receivers and what they are owed.

        Operators only.
        """
        await operator()
        return answer(ReceiversView(tuple(view_of(standing) for standing in await read())))

    @views.post("/receivers/streams/<stream_id>/pause")
    @operation(answers={200: StreamHeldView}, body=PauseForm, problems=(404, 409), keyed=True)
    async def pause(stream_id: str) -> Response:
        """Pause a receiver's stream until an operator enables it.

        Operators only. Its events are held; its receiver is told, and cannot end the pause itself.
        """
        caller = await operator()
        key = _key(caller, await json_text())
        reason = (await read_json(PauseForm)).reason
        return await written(stream_id, caller, key, lambda stream: streams.hold(stream, reason))

    @views.post("/receivers/streams/<stream_id>/enable")
    @operation(answers={200: StreamHeldView}, problems=(400, 404, 409), keyed=True)
    async def enable(stream_id: str) -> Response:
        """Enable a receiver's stream, whoever paused or disabled it.

        Operators only. An address that is not confirmed still has to be.
        """
        caller = await operator()
        return await written(stream_id, caller, _key(caller, b""), streams.let_go)

    return views


def view_of(standing: Standing) -> ReceiverView:
    """A receiver as operators see it."""
    oldest = standing.oldest_unsent
    return ReceiverView(
        client_id=standing.client_id,
        role="atp" if standing.role is Role.ATP else "edp",
        suspended=standing.suspended,
        last_seq=standing.last_seq,
        unsent=standing.unsent,
        parked=standing.parked,
        unacknowledged=standing.unacknowledged,
        streams=tuple(_stream_view(stream) for stream in standing.streams),
        oldest_unsent="" if oldest is None else format_utc(UnixTime(int(oldest))),
        error=standing.error,
        oldest_untold="" if standing.untold is None else format_utc(UnixTime(int(standing.untold.since))),
        fallback_suspended_at="" if standing.fallback_suspended is None else format_utc(standing.fallback_suspended.at),
    )


def _stream_view(stream: StreamRecord) -> ReceiverStreamView:
    return ReceiverStreamView(
        stream_id=stream.stream_id,
        method=_METHODS[stream.delivery],
        status=stream.status.value,
        confirmed=not stream.challenge,
        held=stream.held,
        endpoint_url=stream.endpoint_url,
        reason=stream.reason,
        description=stream.description,
        paused_until="" if stream.paused_until is None else format_utc(stream.paused_until),
    )


def _unknown() -> UnknownStream:
    return UnknownStream("there is no such stream")


def _changed(state: SubjectState | None, decide: Callable[[StreamRecord], StreamRecord], act: Act) -> Append:
    event = None if state is None else event_of(state.event)
    if state is None or not isinstance(event, StreamChanged) or event.stream.deleted:
        raise _unknown()
    after = decide(event.stream)
    if after == event.stream:
        raise NoChange("the stream is in this state already")
    return append_of(StreamChanged(after, act), state.version)


def _held(written: Written) -> StreamHeldView:
    if not isinstance(written.event, StreamChanged):
        raise LostWrite("the write under this key is not of a stream")
    stream = written.event.stream
    return StreamHeldView(stream.client_id, _stream_view(stream), place(written.receipt.position))


def _key(caller: Caller, body: bytes) -> Idempotency:
    offered = request.headers.get("Idempotency-Key")
    return idempotency(caller.client_id, offered, request.method, request.path, body)
