"""The feed service as a node calls it: snapshot, entries, check, keys, reports, claims, over mTLS.

httpx2 loses a socket, and a place in its pool, when a call is cancelled while it connects. So connecting is
shielded, bounded by its own time limit; and a client in which a call was cancelled, or whose pool ran dry, is
retired: calls under way finish on it, later ones get a new one, and the last to leave closes it. Nothing of httpx2
crosses this border.
"""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

import httpcore2
import httpx2
import msgspec
import trio

from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.feed.entries import Position
from engine.feed.frames import BrokenFrames, FrameReader
from engine.feed.questions import Answer, Question

T = TypeVar("T")

CONNECT: Final = Seconds(3.0)  # TCP and TLS; a node turns to another address after that
READ: Final = Seconds(5.0)  # between two pieces of an answer, the long poll's wait apart
CHECK_READ: Final = Seconds(2.0)  # the answer to an older question is worth nothing: ask anew
POOL: Final = Seconds(2.0)
CLOSING: Final = Seconds(2.0)  # for closing a retired client's connections
IDLE: Final = Seconds(60.0)  # the service keeps idle connections longer, so that we close first
CONNECTIONS: Final = 16  # a long poll, a check, a snapshot, and claims of the workers


class FeedUnavailable(Fault):
    """No connection, no answer in time, or the service cannot serve now. A report or claim may have been taken."""

    kind = Kind.UNAVAILABLE


class WrongIncarnation(Fault):
    """The position asked about is of another incarnation than the ledger."""

    kind = Kind.CONFLICT


class FeedForbidden(Fault):
    """The service knows us and refuses: not a node, suspended, or speaking for another."""

    kind = Kind.FORBIDDEN


class FeedBroken(Fault):
    """The service answered what cannot be read, or refused what we sent as wrong."""

    kind = Kind.BROKEN


class _Place(msgspec.Struct, frozen=True):
    incarnation: str
    seq: int


class _Held(msgspec.Struct, frozen=True):
    held: bool


class _Registered(msgspec.Struct, frozen=True):
    kid: str
    published_until: int


class _Lease:
    """A client with the number of calls under way on it."""

    __slots__ = ("calls", "client", "retired")

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client
        self.calls = 0
        self.retired = False


class _ShieldedDialler(httpcore2.TrioBackend):
    """Connects in one piece: cancelled or not, a connection is either handed over or closed."""

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:  # noqa: ANN401 - passed on
        with trio.CancelScope(shield=True):  # bounded: httpcore2 passes its time limit
            return _ShieldedStream(await super().connect_tcp(*args, **kwargs))
        raise AssertionError("nobody cancels this scope")


class _ShieldedStream(httpcore2.AsyncNetworkStream):
    """A TCP stream whose only use is to begin TLS on it."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:  # noqa: ANN401 - passed on
        with trio.CancelScope(shield=True):  # bounded: httpcore2 passes its time limit
            return await self._stream.start_tls(*args, **kwargs)
        raise AssertionError("nobody cancels this scope")

    async def aclose(self) -> None:
        await self._stream.aclose()


class FeedClient:
    """Calls the feed service. Every method raises FeedUnavailable, FeedForbidden and FeedBroken.

    url: `https://host:port/feed`. tls: with our certificate and the service's authority. Any task may call, any
    call may be cancelled.
    """

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._url = url.rstrip("/")
        self._tls = tls
        self._lease: _Lease | None = None

    async def aclose(self) -> None:
        """Close the connections, or leave that to the last call under way. Later calls open new ones."""
        lease = self._lease
        if lease is not None:
            self._retire(lease)
            if lease.calls == 0:
                await _close(lease.client)

    async def renew(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority, for calls to come; those under way end on their connections."""
        self._tls = tls
        await self.aclose()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Sealed entries between two marks; `engine.feed.snapshots.SnapshotCheck` says whether they are whole."""
        async with self._answer("GET", "/snapshot") as response, aclosing(_frames_of(response)) as sealed:
            yield sealed

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        """Sealed entries after a position, in order; waits up to `wait` seconds for the first; may be empty.

        There may be more: ask again after the last one. Raises WrongIncarnation.
        """
        asked: dict[str, str | int | float] = {"incarnation": after.incarnation, "after": after.seq, "wait": wait}
        timeout = httpx2.Timeout(READ, connect=CONNECT, pool=POOL, read=READ + wait)
        answer = self._answer("GET", "/entries", params=asked, timeout=timeout)
        async with answer as response, aclosing(_frames_of(response)) as frames:
            return [sealed async for sealed in frames]

    async def check(self, question: Question) -> Answer:
        """The ledger's position, read while we wait; also says what we have applied."""
        body = {name: getattr(question, name) for name in question.__struct_fields__}
        timeout = httpx2.Timeout(CHECK_READ, connect=CONNECT, pool=POOL)
        async with self._answer("POST", "/check", content=msgspec.json.encode(body), timeout=timeout) as response:
            place = _decode(await response.aread(), _Place)
        return Answer(question.instance, question.nonce, place.incarnation, place.seq)

    async def keys(self) -> bytes:
        """The issuer's verification keys: JSON with the members `issuer` and `jwks`."""
        return await self._call("GET", "/keys")

    async def report(self, idempotency_key: str, body: bytes) -> None:
        """Hand over a JSON array of reports; the same key with the same body may be sent again."""
        await self._call("POST", "/reports", content=body, headers={"Idempotency-Key": idempotency_key})

    async def claim(self, consent_id: str, edp: str, share_id: str) -> bool:
        """Claim a one-off consent for a share; True = this share holds it, now or from before."""
        body = msgspec.json.encode({"consent_id": consent_id, "edp": edp, "share_id": share_id})
        return _decode(await self._call("POST", "/claims", content=body), _Held).held

    async def register_answer_key(self, statement: bytes) -> tuple[str, int]:
        """Have the issuer publish our answer key; returns its kid and until when, seconds since 1970. Repeatable."""
        body = msgspec.json.encode({"statement": statement.decode()})
        answer = _decode(await self._call("PUT", "/answer-keys", content=body), _Registered)
        return answer.kid, answer.published_until

    async def ask(
        self, path: str, body: bytes, media_type: str, *, wait: Seconds, refusal: Callable[[int, bytes], Fault]
    ) -> bytes:
        """POST a body of another room's, and return the answer's. wait: how long the service may take its time.

        refusal: what a status that is no success means, with its body; `refusal_of` is the usual one.
        """
        timeout = httpx2.Timeout(READ, connect=CONNECT, pool=POOL, read=READ + wait)
        headers = {"Content-Type": media_type}
        async with self._answer(
            "POST", path, content=body, headers=headers, timeout=timeout, refusal=refusal
        ) as response:
            return await response.aread()

    async def _call(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        async with self._answer(method, path, content=content, headers=headers) as response:
            return await response.aread()

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int | float] | None = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout = httpx2.Timeout(READ, connect=CONNECT, pool=POOL),  # noqa: ASYNC109, B008 - httpx2's own limits, frozen
        refusal: Callable[[int, bytes], Fault] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """A successful response whose body is still to be read; every other one as a fault."""
        sent = {"Content-Type": "application/json", **(headers or {})} if content is not None else headers
        try:
            async with (
                self._leased() as client,
                client.stream(
                    method, self._url + path, params=params, content=content, headers=sent, timeout=timeout
                ) as response,
            ):
                if not response.is_success:
                    raise (refusal or refusal_of)(response.status_code, await response.aread())
                yield response
        except (httpx2.HTTPError, httpx2.StreamError, ssl.SSLError, OSError) as error:
            raise FeedUnavailable("the feed service does not answer", detail=repr(error)) from error

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[httpx2.AsyncClient]:
        lease = self._lease
        if lease is None:
            lease = self._lease = _Lease(self._open())
        lease.calls += 1
        sound = False  # cancelled, alone or in a group: whatever is no Exception leaves it so
        try:
            yield lease.client
            sound = True
        except Exception as error:
            sound = not isinstance(error, httpx2.PoolTimeout)
            raise
        finally:
            lease.calls -= 1
            if not sound:
                self._retire(lease)
            if lease.retired and lease.calls == 0:
                await _close(lease.client)

    def _open(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        # Private, and the only way to hand httpx2 a dialler; the cancellation test notices when it changes.
        transport._pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=CONNECTIONS,
            keepalive_expiry=IDLE,
            network_backend=_ShieldedDialler(),
        )
        return httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    def _retire(self, lease: _Lease) -> None:
        """Take no more calls on that client."""
        lease.retired = True
        if lease is self._lease:
            self._lease = None


async def _close(client: httpx2.AsyncClient) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING):
        await client.aclose()


async def _frames_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The frames of a body. Raises FeedBroken; a body that is cut off in the middle of a frame is one."""
    reader = FrameReader()
    try:
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                for payload in reader.feed(piece):
                    yield payload
        reader.finish()
    except BrokenFrames as fault:
        raise FeedBroken("the feed service sent what is not a row of entries", detail=fault.detail) from fault
    except httpx2.HTTPError as error:
        raise FeedUnavailable("the feed service broke off", detail=repr(error)) from error


def refusal_of(status: int, body: bytes) -> Fault:
    """What a status that is no success means."""
    detail = f"{status}: {body[:300]!r}"
    if status == 409:
        return WrongIncarnation("the ledger is of another incarnation", detail=detail)
    if status in (401, 403):
        return FeedForbidden("the feed service refuses us", detail=detail)
    if status == 429 or status >= 500:
        return FeedUnavailable("the feed service cannot serve now", detail=detail)
    return FeedBroken("the feed service did not understand us", detail=detail)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise FeedBroken("the feed service's answer could not be read", detail=str(error)) from error
