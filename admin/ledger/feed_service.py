"""The feed over HTTPS for nodes: how a node starts, heals a gap, and stays current when Redis is lost.

Everything is read from the ledger, never from Redis. Bodies of entries are frames (`engine.feed.frames`) of the
same sealed bytes that stand in Redis. A snapshot at S is begun by reading the head, S; then come the records in
order of their keys, page by page: one that changed meanwhile is newer than S, one that appeared behind the reader
comes with the entries after S.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Request, Response, request

from admin.ledger.answer_keys import AnswerKeys
from admin.ledger.claims import Claim, Claims
from admin.ledger.records_filler import FIRST_PLACE
from admin.ledger.register import LedgerLostItsTail, Register
from admin.ledger.reports import Reports
from admin.ledger.sealing import Sealer
from admin.ledger.store import Ledger, StoredEvent
from engine.clock import Seconds
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.errors import Fault, Kind
from engine.feed.entries import Position
from engine.feed.frames import frame, frames
from engine.feed.questions import Drawn, Incarnation, NodeId, Question, Seq
from engine.feed.snapshots import begin_mark, end_mark
from engine.tokens.answer_key_statements import MAX_STATEMENT

PAGE: Final = 5_000  # records read at once
CHUNK: Final = 65_536  # bytes of body handed to the network at once, at least
ENTRIES: Final = 2_000  # in one answer: about 600 KB
MAX_WAIT: Final = Seconds(30.0)  # of a long poll; below what balancers cut off
OCTETS: Final = "application/octet-stream"

T = TypeVar("T")
Authenticate = Callable[[Request], Awaitable[ParticipantRecord]]
RequireNode = Callable[[], Awaitable[ParticipantRecord]]
ReadKeys = Callable[[], Awaitable[bytes]]
TakeReports = Callable[[ClientId, bytes], Awaitable[None]]  # may refuse by a Fault; then the node sends them again
MayClaim = Callable[[], Awaitable[None]]  # raises a Fault while nothing can be claimed


class CheckCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question as JSON."""

    node_id: NodeId
    instance: Drawn
    nonce: Drawn
    incarnation: Incarnation
    applied: Seq

    def question(self) -> Question:
        return Question(self.node_id, self.instance, self.nonce, self.incarnation, self.applied)


class Place(msgspec.Struct, frozen=True):
    """The answer to a check."""

    incarnation: str
    seq: int


class Held(msgspec.Struct, frozen=True):
    """The answer to a claim."""

    held: bool


class EntriesCall(msgspec.Struct, frozen=True):
    """The parameters of `/feed/entries`. wait: seconds."""

    incarnation: Incarnation
    after: Seq
    wait: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class KeyCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node's statement about its answer key, a compact JWS (`engine.tokens.answer_key_statements`)."""

    statement: Annotated[str, Meta(max_length=MAX_STATEMENT)]


class NotANode(Fault):
    """The caller is known, and this is for nodes only, or for another node."""

    kind = Kind.FORBIDDEN


class AnotherIncarnation(Fault):
    """The position asked about means nothing in this ledger: take a snapshot."""

    kind = Kind.CONFLICT


class UnreadableCall(Fault):
    """A parameter or a body of the wrong form."""

    kind = Kind.INVALID


async def _nothing_more(_client_id: ClientId, _body: bytes) -> None:
    pass


async def _always() -> None:
    pass


class FeedService:
    """The calls, apart from HTTP. keys: the body of `/feed/keys`, JSON.

    take_reports: what is done with a report once it is kept, each time that it comes. may_claim: asked before a claim.
    """

    def __init__(
        self,
        ledger: Ledger,
        register: Register,
        claims: Claims,
        reports: Reports,
        sealer: Sealer,
        keys: ReadKeys,
        answer_keys: AnswerKeys,
        take_reports: TakeReports = _nothing_more,
        may_claim: MayClaim = _always,
    ) -> None:
        self.take_reports = take_reports
        self.may_claim = may_claim
        self.register = register
        self.claims = claims
        self.reports = reports
        self.keys = keys
        self.answer_keys = answer_keys
        self._ledger = ledger
        self._sealer = sealer

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """The body of a snapshot, in chunks of at least CHUNK bytes but for the last."""
        position = (await self._ledger.head()).position
        held = bytearray(frame(self._sealer.entry(begin_mark(position)).sealed))
        place, count = FIRST_PLACE, 0
        while page := await self._ledger.records(place, PAGE):
            for seq, record in page:
                held += frame(self._sealer.record(seq, record, position.incarnation).sealed)
                if len(held) >= CHUNK:
                    yield bytes(held)
                    held.clear()
            place, count = (int(page[-1][1].kind), page[-1][1].key), count + len(page)
        yield bytes(held) + frame(self._sealer.entry(end_mark(position, count)).sealed)

    async def entries(self, after: Position, wait: Seconds) -> bytes:
        """Frames of at most ENTRIES entries after a position; empty when `wait` seconds brought none.

        Raises AnotherIncarnation.
        """
        deadline = trio.current_time() + min(wait, MAX_WAIT)
        while True:
            await self._require(after)
            events = await self._ledger.events(after.seq, ENTRIES)
            if events or trio.current_time() >= deadline:
                return self._frames(events, after.incarnation)
            with trio.move_on_at(deadline):
                await self._ledger.wait_beyond(after.seq)

    async def _require(self, position: Position) -> None:
        head = (await self._ledger.head()).position
        if head.incarnation != position.incarnation:
            raise AnotherIncarnation("this position is not of this ledger's incarnation")
        if position.seq > head.seq:
            raise LedgerLostItsTail("the ledger has lost events that a node had applied")

    def _frames(self, events: Sequence[StoredEvent], incarnation: str) -> bytes:
        return frames(self._sealer.event(event, incarnation).sealed for event in events)


def feed_blueprint(service: FeedService, authenticate: Authenticate) -> Blueprint:
    """The routes below `/feed`. authenticate: who is calling; raises a Fault for whoever may not.

    Faults are left to the application's edge.
    """
    blueprint = Blueprint("feed", __name__, url_prefix="/feed")

    async def require_node() -> ParticipantRecord:
        caller = await authenticate(request)
        if caller.role is not Role.NODE or caller.suspended:
            raise NotANode("the feed is for nodes")
        return caller

    _add_feed_calls(blueprint, service, require_node)
    _add_telling_calls(blueprint, service, require_node)
    return blueprint


def _add_feed_calls(blueprint: Blueprint, service: FeedService, require_node: RequireNode) -> None:
    """What a node reads, and asks to be current."""

    @blueprint.get("/snapshot")
    async def snapshot() -> Response:
        await require_node()
        response = Response(service.snapshot(), content_type=OCTETS)
        response.timeout = None  # as long as the node reads; the listener cuts off whoever reads nothing
        return response

    @blueprint.get("/entries")
    async def entries() -> Response:
        await require_node()
        asked = _parameters(EntriesCall)
        after = Position(asked.incarnation, asked.after)
        return Response(await service.entries(after, Seconds(asked.wait)), content_type=OCTETS)

    @blueprint.post("/check")
    async def check() -> Response:
        caller = await require_node()
        question = (await _read(CheckCall)).question()
        if question.node_id != caller.client_id:
            raise NotANode("a node asks for itself")
        position = await service.register.check(question)
        return _json(Place(position.incarnation, position.seq))

    @blueprint.get("/keys")
    async def keys() -> Response:
        await require_node()
        return Response(await service.keys(), content_type="application/json")


def _add_telling_calls(blueprint: Blueprint, service: FeedService, require_node: RequireNode) -> None:
    """What a node has to tell."""

    @blueprint.put("/answer-keys")
    async def answer_keys() -> Response:
        caller = await require_node()
        statement = (await _read(KeyCall)).statement.encode()
        return _json(await service.answer_keys.register(caller.client_id, statement))

    @blueprint.post("/reports")
    async def reports() -> Response:
        caller = await require_node()
        key = request.headers.get("Idempotency-Key")
        body = await _body()
        await service.reports.take(caller.client_id, key, body)
        await service.take_reports(caller.client_id, body)
        return Response(b"", status=204)

    @blueprint.post("/claims")
    async def claims() -> Response:
        await require_node()
        await service.may_claim()
        return _json(Held(await service.claims.take(await _read(Claim))))


async def _body() -> bytes:
    body = await request.get_data(as_text=False)
    assert isinstance(body, bytes)  # noqa: S101 - as_text=False
    return body


async def _read(kind: type[T]) -> T:
    """The JSON body. Raises UnreadableCall."""
    try:
        return msgspec.json.decode(await _body(), type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableCall(f"the body is not what this call takes: {error}") from error


def _parameters(kind: type[T]) -> T:
    """The query parameters. Raises UnreadableCall."""
    try:
        return msgspec.convert(request.args.to_dict(), kind, strict=False)
    except msgspec.MsgspecError as error:
        raise UnreadableCall(f"the parameters are not what this call takes: {error}") from error


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), content_type="application/json")
