"""The feed service's calls for the pusher, below `/feed/pusher`: MessagePack both ways, one view for each method.

Only participants of role PUSHER may call them, and they may call nothing else of the feed.
"""

from typing import Any, Final, TypeVar

import msgspec
from quart import Blueprint, Response, request

from admin.ledger.event_keys import EventKeys
from admin.ledger.feed_service import Authenticate, UnreadableCall
from admin.ledger.outbox_service import Outbox
from engine.clock import Seconds
from engine.consent.records import ParticipantRecord, Role
from engine.errors import Fault, Kind
from engine.pusher.service_calls import (
    MAX_COMPACT,
    MESSAGEPACK,
    BacklogCall,
    Counted,
    EventKeyCall,
    FreshCall,
    KeepCall,
    LeaseCall,
    Nothing,
    RegisteredKey,
    ReleaseCall,
    RosterAnswer,
    RosterCall,
    TellCall,
    UnparkCall,
    UnsignedCall,
    pusher_named,
)

T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode


class NotAPusher(Fault):
    """The caller is known, and this is for the pusher only."""

    kind = Kind.FORBIDDEN


def pusher_blueprint(outbox: Outbox, keys: EventKeys, authenticate: Authenticate) -> Blueprint:
    """The routes below `/feed/pusher`. authenticate: who is calling; raises a Fault for whoever may not."""
    blueprint = Blueprint("pusher", __name__, url_prefix="/feed/pusher")
    pushers = _Pushers(authenticate)
    _add_lease(blueprint, outbox, pushers)
    _add_readings(blueprint, outbox, pushers)
    _add_writings(blueprint, outbox, pushers)
    _add_event_keys(blueprint, keys, pushers)
    return blueprint


class _Pushers:
    """The pushers among the callers."""

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    async def calling(self) -> ParticipantRecord:
        """The caller of the request at hand. Raises NotAPusher, and what authenticating does."""
        caller = await self._authenticate(request)
        if caller.role is not Role.PUSHER or caller.suspended:
            raise NotAPusher("these calls are for the pusher")
        return caller

    async def read(self, kind: type[T]) -> T:
        """A pusher's call. Raises UnreadableCall too."""
        await self.calling()
        return await _read(kind)


def _add_lease(blueprint: Blueprint, outbox: Outbox, pushers: _Pushers) -> None:
    """The right to push."""

    @blueprint.post("/lease")
    async def lease() -> Response:
        caller, call = await pushers.calling(), await _read(LeaseCall)
        if pusher_named(call.holder) not in ("", caller.client_id):
            raise NotAPusher("a pusher takes the lease in its own name")
        return _answer(await outbox.lease(call.holder, call.epoch))

    @blueprint.post("/release")
    async def release() -> Response:
        await outbox.release((await pushers.read(ReleaseCall)).epoch)
        return _answer(Nothing())


def _add_readings(blueprint: Blueprint, outbox: Outbox, pushers: _Pushers) -> None:
    """Who there is, and what is owed to them."""

    @blueprint.post("/roster")
    async def roster() -> Response:
        call = await pushers.read(RosterCall)
        return _answer(RosterAnswer(await outbox.roster(call.after, Seconds(call.wait))))

    @blueprint.post("/fresh")
    async def fresh() -> Response:
        call = await pushers.read(FreshCall)
        return _answer(await outbox.fresh(call.lane, call.after, call.limit, Seconds(call.wait)))

    @blueprint.post("/backlog")
    async def backlog() -> Response:
        call = await pushers.read(BacklogCall)
        return _answer(await outbox.backlog(call.client_id, call.lane, call.after, call.limit))

    @blueprint.post("/unsigned")
    async def unsigned() -> Response:
        call = await pushers.read(UnsignedCall)
        return _answer(await outbox.unsigned(call.after, call.limit, Seconds(call.wait), bulk=call.bulk))


def _add_writings(blueprint: Blueprint, outbox: Outbox, pushers: _Pushers) -> None:
    """Signed bytes, and what became of deliveries."""

    @blueprint.post("/keep")
    async def keep() -> Response:
        call = await pushers.read(KeepCall)
        if any(len(one.compact) > MAX_COMPACT for one in call.signed):
            raise UnreadableCall(f"a set has at most {MAX_COMPACT} bytes")
        return _answer(await outbox.keep(call.epoch, call.signed))

    @blueprint.post("/tell")
    async def tell() -> Response:
        call = await pushers.read(TellCall)
        await outbox.tell(call.epoch, call.outcomes, call.batch)
        return _answer(Nothing())

    @blueprint.post("/unpark")
    async def unpark() -> Response:
        call = await pushers.read(UnparkCall)
        return _answer(Counted(await outbox.unpark(call.epoch, call.client_id, call.at)))


def _add_event_keys(blueprint: Blueprint, keys: EventKeys, pushers: _Pushers) -> None:
    """The keys that sign."""

    @blueprint.post("/event-key")
    async def event_key() -> Response:
        caller = await pushers.calling()
        registered = await keys.register(caller.client_id, (await _read(EventKeyCall)).statement)
        return _answer(RegisteredKey(registered.kid, registered.published_until))


async def _read(kind: type[T]) -> T:
    """The body. Raises UnreadableCall, and HTTP's own refusal of one that is too long."""
    if request.mimetype != MESSAGEPACK:
        raise UnreadableCall(f"send {MESSAGEPACK}")
    body = await request.get_data(as_text=False)
    assert isinstance(body, bytes)  # noqa: S101 - as_text=False
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableCall(f"the body is not what this call takes: {error}") from error


def _answer(body: Any) -> Response:  # noqa: ANN401 - any struct, or a list of them
    return Response(_encode(body), content_type=MESSAGEPACK)
