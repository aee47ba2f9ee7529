"""The feed over HTTPS as a node sees it: `engine.feed.https.FeedClient` without sockets, to whichever admin answers."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from admin.edge import STATUSES
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentId
from engine.decision.questions import ClaimResult
from engine.errors import Fault
from engine.feed.entries import Position
from engine.feed.frames import FrameReader
from engine.feed.https import READ, FeedUnavailable, refusal_of
from engine.feed.questions import Answer, Question
from tests.world.simulation.wires import Lost, Wire, call

if TYPE_CHECKING:
    from tests.world.simulation.admins import Admin
    from tests.world.simulation.world import World

T = TypeVar("T")


class MadeFeedClient:
    """One node's client. Raises what the real one raises."""

    def __init__(self, world: "World", node_id: str, wire: Wire) -> None:
        self._world, self._node_id, self._wire = world, node_id, wire

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        chunks = await self._call(lambda admin: admin.snapshot)
        async with aclosing(self._pieces(chunks)) as pieces:
            yield pieces

    async def _pieces(self, chunks: list[bytes]) -> AsyncGenerator[bytes, None]:
        for number, payload in enumerate(_payloads(chunks)):
            if number % 50 == 0:
                try:
                    await self._wire.cross(back=True)
                except Lost:
                    raise FeedUnavailable("the feed service broke off") from None
            yield payload

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        return _payloads([await self._call(lambda admin: admin.feed.entries, after, wait, patience=READ + wait)])

    async def check(self, question: Question) -> Answer:
        incarnation, seq = await self._call(lambda admin: admin.check, question)
        return Answer(question.instance, question.nonce, incarnation, seq)

    async def keys(self) -> bytes:
        return await self._call(lambda admin: admin.feed.keys)

    async def report(self, idempotency_key: str, body: bytes) -> None:
        await self._call(lambda admin: admin.report, ClientId(self._node_id), idempotency_key, body)

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> ClaimResult:
        """As `engine.node.claims` puts it."""
        try:
            held = await self._call(lambda admin: admin.claim, consent_id, edp, share_id)
        except Fault:
            return ClaimResult.UNREACHABLE
        return ClaimResult.HELD if held else ClaimResult.TAKEN

    async def _call(
        self, method: Callable[["Admin"], Callable[..., Awaitable[T]]], *args: object, patience: float = READ
    ) -> T:
        admin = self._world.any_admin()
        twice = self._world.chance("call delivered twice", 0.01)
        if admin is None:
            await self._world.nobody_there(self._wire)
            raise FeedUnavailable("the feed service does not answer")
        try:
            return await call(self._wire, admin.process, method(admin), *args, patience=patience, twice=twice)
        except Lost:
            raise FeedUnavailable("the feed service does not answer") from None
        except Fault as fault:
            raise refusal_of(STATUSES.get(fault.kind, HTTPStatus.INTERNAL_SERVER_ERROR), b"") from fault


def _payloads(chunks: list[bytes]) -> list[bytes]:
    reader = FrameReader()
    payloads = [payload for chunk in chunks for payload in reader.feed(chunk)]
    reader.finish()
    return payloads
