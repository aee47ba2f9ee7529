"""`engine.guard.transmitter.Transmitter` over HTTPS: the service's machine listener, with the EDP's own certificate.

Where things are is found out once (SSF 1.0 section 7.1) and again after a failure. Calls are bounded by httpx2's own
time limits and never cancelled by us, because a call that is cancelled while it connects loses its place in the pool.
"""

import ssl
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec
from msgspec import Meta

from engine.clock import Seconds
from engine.errors import Fault
from engine.events.verification import RefusedEvent
from engine.guard.https_client import HttpsClient, is_tls_failure
from engine.guard.retry import LONGEST_RETRY_AFTER, read_retry_after
from engine.guard.transmitter import (
    Changes,
    NoSuchStream,
    NotTold,
    Page,
    Polled,
    Stream,
    TooManyCalls,
    TooOld,
    Unreachable,
)

PUSH_URN: Final = "urn:ietf:rfc:8935"
POLL_URN: Final = "urn:ietf:rfc:8936"
CONNECT: Final = Seconds(3.0)
READ: Final = Seconds(15.0)  # a piece of an answer; nothing here waits at the other side
WHOLE: Final = Seconds(60.0)  # an answer from its head to its end
MAX_ANSWER: Final = 16 << 20  # bytes; a hundred events have at most 6.5 MB
PAGE: Final = 500  # lines of a listing in one answer

T = TypeVar("T")
Url = Annotated[str, Meta(pattern="^https://")]


class _Discovery(msgspec.Struct, frozen=True):
    """As far as we use it. Confirming is ours, and has a member of ours."""

    issuer: str
    configuration_endpoint: Url
    status_endpoint: Url
    verification_endpoint: Url
    ccs_confirmation_endpoint: Url

    def __post_init__(self) -> None:
        for url in (
            self.configuration_endpoint,
            self.status_endpoint,
            self.verification_endpoint,
            self.ccs_confirmation_endpoint,
        ):
            _check_callable(url)


class _Delivery(msgspec.Struct, frozen=True):
    method: Literal["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"]
    endpoint_url: Url

    def __post_init__(self) -> None:
        if self.method == POLL_URN:  # a push address is called by the service, and may be moved away from
            _check_callable(self.endpoint_url)


class _Configuration(msgspec.Struct, frozen=True):
    stream_id: str
    delivery: _Delivery
    min_verification_interval: Annotated[int, Meta(ge=0, le=86_400)] = 60

    def stream(self) -> Stream:
        interval = Seconds(float(self.min_verification_interval))
        return Stream(self.stream_id, self.delivery.method == PUSH_URN, self.delivery.endpoint_url, interval)


class _Status(msgspec.Struct, frozen=True):
    status: str


class HttpsTransmitter:
    """machine_url: origin of the listings. tls: with our certificate and the service's authority."""

    def __init__(self, issuer: str, machine_url: str, jwks_url: str, tls: ssl.SSLContext) -> None:
        self._issuer = issuer
        self._machine_url = machine_url.rstrip("/")
        self._jwks_url = jwks_url
        self._found: _Discovery | None = None
        self._client = HttpsClient(_client_with, tls)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def renew(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority, for calls to come."""
        self._client.renew(tls)

    async def event_keys(self) -> bytes:
        """See Transmitter."""
        return await self._call("GET", self._jwks_url)

    async def poll(
        self, poll_url: str, ack: Sequence[str], max_events: int, errors: Mapping[str, RefusedEvent]
    ) -> Polled:
        """See Transmitter."""
        body: dict[str, Any] = {"maxEvents": max_events, "returnImmediately": True}
        if ack:
            body["ack"] = list(ack)
        if errors:
            body["setErrs"] = {jti: {"err": e.err.value, "description": e.text} for jti, e in errors.items()}
        raw = await self._call("POST", poll_url, body, {"Content-Language": "en"} if errors else {}, NoSuchStream)
        return _decode(raw, Polled)

    async def changes(self, after_seq: int, incarnation: str) -> Changes:
        """See Transmitter."""
        asked = {"after_seq": after_seq, "limit": PAGE} | ({"incarnation": incarnation} if incarnation else {})
        url = httpx2.URL(f"{self._machine_url}/consents/changes", params=asked)
        return _decode(await self._call("GET", str(url)), Changes)

    async def snapshot(self, cursor: str | None) -> Page:
        """See Transmitter."""
        url = httpx2.URL(f"{self._machine_url}/consents/snapshot", params={} if cursor is None else {"cursor": cursor})
        return _decode(await self._call("GET", str(url)), Page)

    async def streams(self) -> tuple[Stream, ...]:
        """See Transmitter."""
        found = await self._discover()
        raw = await self._call("GET", found.configuration_endpoint)
        return tuple(one.stream() for one in _decode(raw, tuple[_Configuration, ...]))

    async def create_stream(self, push_url: str | None) -> Stream:
        """See Transmitter."""
        found = await self._discover()
        delivery = {"method": POLL_URN} if push_url is None else {"method": PUSH_URN, "endpoint_url": push_url}
        raw = await self._call("POST", found.configuration_endpoint, {"delivery": delivery})
        return _decode(raw, _Configuration).stream()

    async def move_stream(self, stream_id: str, push_url: str) -> Stream:
        """See Transmitter."""
        found = await self._discover()
        body = {"stream_id": stream_id, "delivery": {"method": PUSH_URN, "endpoint_url": push_url}}
        raw = await self._call("PATCH", found.configuration_endpoint, body, missing=NoSuchStream)
        return _decode(raw, _Configuration).stream()

    async def confirm(self, stream_id: str, challenge: str) -> None:
        """See Transmitter."""
        found = await self._discover()
        body = {"stream_id": stream_id, "challenge": challenge}
        await self._call("POST", found.ccs_confirmation_endpoint, body, missing=NoSuchStream)

    async def status(self, stream_id: str) -> str:
        """See Transmitter."""
        found = await self._discover()
        url = str(httpx2.URL(found.status_endpoint, params={"stream_id": stream_id}))
        return _decode(await self._call("GET", url, missing=NoSuchStream), _Status).status

    async def verify(self, stream_id: str, state: str | None) -> None:
        """See Transmitter."""
        found = await self._discover()
        body = {"stream_id": stream_id} if state is None else {"stream_id": stream_id, "state": state}
        await self._call("POST", found.verification_endpoint, body, missing=NoSuchStream)

    async def _discover(self) -> _Discovery:
        if self._found is None:
            parts = urlsplit(self._issuer)
            url = f"{parts.scheme}://{parts.netloc}/.well-known/ssf-configuration{parts.path.rstrip('/')}"
            found = _decode(await self._call("GET", url), _Discovery)
            if found.issuer != self._issuer:
                raise NotTold("the transmitter's configuration is another issuer's", detail=found.issuer)
            self._found = found
        return self._found

    async def _call(
        self,
        method: str,
        url: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        missing: type[Fault] = NotTold,
    ) -> bytes:
        """The body of a successful answer; missing: the fault that a 404 is."""
        try:
            _check_callable(url)  # one of discovery's that was kept on disk may be from before it was looked at
        except ValueError as error:
            raise NotTold("a URL cannot be called", detail=str(error)) from error
        content = None if body is None else msgspec.json.encode(body)
        # No content coding: what is small on the way and huge when unpacked is not asked for.
        sent = {**(headers or {}), "Accept": "application/json", "Accept-Encoding": "identity"}
        if content is not None:
            sent["Content-Type"] = "application/json"
        try:
            async with self._client.stream(method, url, content, sent) as response:
                answer = await _read(response)
        except httpx2.HTTPError as error:
            raise _broken(error) from error
        if not response.is_success:
            self._found = None
            raise _refusal(response.status_code, answer, response.headers.get("Retry-After", ""), missing)
        return answer


def _client_with(tls: ssl.SSLContext) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        verify=tls,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(READ, connect=CONNECT),
        limits=httpx2.Limits(max_connections=4, keepalive_expiry=60.0),
    )


async def _read(response: httpx2.Response) -> bytes:
    answer, deadline = bytearray(), anyio.current_time() + WHOLE
    async with aclosing(response.aiter_raw()) as pieces:
        async for piece in pieces:
            answer += piece
            if len(answer) > MAX_ANSWER:
                raise NotTold("the service's answer is too long")
            if anyio.current_time() > deadline:  # each piece came in time, and all of them did not
                raise Unreachable("the service's answer took too long")
    return bytes(answer)


def _check_callable(url: str) -> None:
    """Raises ValueError, as a member of an answer that does not fit. httpx2 raises no HTTPError for such a URL."""
    try:
        host = httpx2.URL(url).host
        is_callable = bool(host) and bool(host.encode("idna"))  # as the resolver does
    except (httpx2.InvalidURL, UnicodeError):
        is_callable = False
    if not is_callable:
        raise ValueError(f"no URL that can be called: {url[:100]!r}")


def _broken(error: httpx2.HTTPError) -> Fault:
    """A certificate that does not hold is no outage, and neither is what is no HTTP."""
    if is_tls_failure(error):
        return NotTold("TLS with the service failed", detail=repr(error))
    if isinstance(error, httpx2.TransportError):
        return Unreachable("the service does not answer", detail=repr(error))
    return NotTold("the service's answer could not be read", detail=repr(error))


def _refusal(status: int, body: bytes, retry_after: str, missing: type[Fault]) -> Fault:
    detail = f"{status}: {body[:300]!r}"
    if status == 429:
        said = read_retry_after(retry_after.encode())
        return TooManyCalls("the service is asked too often", detail=detail, wait=min(said, LONGEST_RETRY_AFTER))
    if status >= 500:
        return Unreachable("the service cannot serve now", detail=detail)
    if status == 410:
        return TooOld("the service does not know that far back", detail=detail)
    if status == 404:
        return missing("the service does not know it", detail=detail)
    return NotTold("the service refuses us", detail=detail)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotTold("the service's answer could not be read", detail=str(error)) from error
