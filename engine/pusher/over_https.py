"""The push service as the pusher calls it over mTLS. Whatever is refused or lost comes as one of the port's faults.

A call that was cut off may have been done: all of them may be repeated. Long answers come in parts that fit into one
body each, and so do long calls, but for what is told: its batches are small enough.
"""

import ssl
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId
from engine.errors import Fault
from engine.feed.https import FeedBroken, FeedClient, refusal_of
from engine.pusher.service import Delivery, Lane, Lease, LeaseHeld, LeaseLost, Outcome, Roster, Signed
from engine.pusher.service_calls import (
    MAX_AT_ONCE,
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
)

T = TypeVar("T")
BODY: Final = 524_288  # bytes of signed sets in one call: half of what the service takes
_LEASE_FAULTS: Final[dict[str, type[Fault]]] = {"lease_held": LeaseHeld, "lease_lost": LeaseLost}
_encode: Final = msgspec.msgpack.Encoder().encode


class _Problem(msgspec.Struct, frozen=True):
    """RFC 9457, as far as it is read."""

    code: str = ""
    detail: str = ""


class HttpsPushService:
    """url: `https://host:port/feed`, as for nodes. tls: with the pusher's certificate and the service's authority."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._client = FeedClient(url, tls)

    async def aclose(self) -> None:
        """Close the connections, or leave that to the last call under way. Later calls open new ones."""
        await self._client.aclose()

    async def renew(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority, for calls to come."""
        await self._client.renew(tls)

    async def lease(self, holder: str, epoch: int | None) -> Lease:
        """See PushService. The lease runs from before this call on."""
        return await self._ask("lease", LeaseCall(holder, epoch), Lease)

    async def release(self, epoch: int) -> None:
        """See PushService."""
        await self._ask("release", ReleaseCall(epoch), Nothing)

    async def roster(self, after: int, wait: Seconds) -> Roster | None:
        """See PushService."""
        return (await self._ask("roster", RosterCall(after, wait), RosterAnswer, wait)).roster

    async def fresh(self, lane: Lane, after: int, limit: int, wait: Seconds) -> Sequence[Delivery]:
        """See PushService."""
        return await self._ask("fresh", FreshCall(lane, after, _count(limit), wait), list[Delivery], wait)

    async def backlog(self, client_id: ClientId, lane: Lane, after: int, limit: int) -> Sequence[Delivery]:
        """See PushService."""
        return await self._ask("backlog", BacklogCall(client_id, lane, after, _count(limit)), list[Delivery])

    async def unsigned(self, after: int, limit: int, wait: Seconds, *, bulk: bool = False) -> Sequence[Delivery]:
        """See PushService."""
        return await self._ask("unsigned", UnsignedCall(after, _count(limit), wait, bulk), list[Delivery], wait)

    async def keep(self, epoch: int, signed: Sequence[Signed]) -> Sequence[Signed]:
        """See PushService. Several calls where the bytes are many: each part is kept or not by itself."""
        stands: list[Signed] = []
        for part in _parts(signed):
            stands += await self._ask("keep", KeepCall(epoch, tuple(part)), list[Signed])
        return stands

    async def tell(self, epoch: int, outcomes: Sequence[Outcome], batch: int) -> None:
        """See PushService. In one call: a batch has one number."""
        await self._ask("tell", TellCall(epoch, tuple(outcomes), batch), Nothing)

    async def unpark(self, epoch: int, client_id: ClientId, at: UnixTime) -> int:
        """See PushService."""
        return (await self._ask("unpark", UnparkCall(epoch, client_id, at), Counted)).count

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        """See PushService."""
        registered = await self._ask("event-key", EventKeyCall(statement), RegisteredKey)
        return registered.kid, registered.published_until

    async def _ask(self, name: str, call: msgspec.Struct, kind: type[T], wait: Seconds = Seconds(0.0)) -> T:  # noqa: B008 - a number
        body = await self._client.ask(f"/pusher/{name}", _encode(call), MESSAGEPACK, wait=wait, refusal=_refusal)
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise FeedBroken("the feed service's answer could not be read", detail=str(error)) from error


def _refusal(status: int, body: bytes) -> Fault:
    """The port's own faults by their code; a conflict of any other kind is none that a pusher can act on."""
    if status != 409:
        return refusal_of(status, body)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem()
    kind = _LEASE_FAULTS.get(problem.code, FeedBroken)
    return kind(problem.detail or "the feed service refuses this", detail=f"409: {body[:300]!r}")


def _count(limit: int) -> int:
    return max(1, min(limit, MAX_AT_ONCE))


def _parts(signed: Sequence[Signed]) -> Iterator[list[Signed]]:
    """In order, each with at most BODY bytes and MAX_AT_ONCE items; one that is longer by itself goes alone."""
    part: list[Signed] = []
    size = 0
    for one in signed:
        if part and (size + len(one.compact) > BODY or len(part) >= MAX_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.compact)
    if part:
        yield part
