"""The service's calls about events over real HTTPS, on `tests.support.told.TellingService`: discovery, streams, polls,
listings and keys, in the forms that are on the wire. On trio and on asyncio; every call needs a client certificate."""

import json
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from engine.events.verification import ErrorCode, RefusedEvent
from engine.guard.transmitter import NoSuchStream, Stream, TooManyCalls, TooOld
from engine.listener.http1 import HeadLimits, Refused, Request, Response, ServerConnection, Signal, render_response
from engine.listener.tls import server_context
from tests.support.mutual_tls import Authority
from tests.support.told import TellingService

Reply = tuple[int, Any]
PUSH, POLL = "urn:ietf:rfc:8935", "urn:ietf:rfc:8936"


class EventService:
    """issuer: its own address, once it serves. status: answered to everything, if set. requests: method and target."""

    def __init__(self, telling: TellingService) -> None:
        self.telling = telling
        self.issuer = ""
        self.status = 0
        self.retry_after = b""
        self.raw: bytes | None = None
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []

    @asynccontextmanager
    async def serving(self, authority: Authority) -> AsyncIterator[None]:
        """On a free port of 127.0.0.1."""
        context = server_context(*authority.issue("service"), authority.file)
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        self.issuer = f"https://localhost:{port}"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, lambda stream: self._serve(stream, context))
            yield
            tasks.cancel_scope.cancel()

    async def _serve(self, plain: SocketStream, context: ssl.SSLContext) -> None:
        async with plain:
            try:
                tls = await TLSStream.wrap(plain, server_side=True, ssl_context=context, standard_compatible=False)
                connection = ServerConnection(HeadLimits(16_384, 1 << 20))
                while True:
                    event = connection.next_event()
                    if event is Signal.NEED_DATA:
                        connection.receive_data(await tls.receive())
                    elif isinstance(event, Request):
                        await tls.send(render_response(await self._answer(event), event.keep_alive))
                    else:
                        assert not isinstance(event, Refused), event
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError):
                pass

    async def _answer(self, request: Request) -> Response:
        target = request.target.decode()
        self.requests.append((request.method.decode(), target))
        if self.status:
            fields = ((b"Retry-After", self.retry_after),) if self.retry_after else ()
            return Response(self.status, b'{"code":"made_up"}', headers=fields)
        body = json.loads(request.body) if request.body else {}
        self.bodies.append(body)
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        try:
            status, said = await self._route(request.method.decode(), urlsplit(target).path)(query, body)
        except NoSuchStream:
            status, said = 404, {"code": "unknown_stream"}
        except TooManyCalls as fault:
            return Response(429, b'{"code":"too_soon"}', headers=((b"Retry-After", b"%d" % math.ceil(fault.wait)),))
        except TooOld:
            status, said = 410, {"code": "too_old"}
        raw = self.raw if self.raw is not None else said if isinstance(said, bytes) else msgspec.json.encode(said)
        return Response(status, b"" if status == 204 else raw)

    def _route(self, method: str, path: str) -> Callable[[dict[str, str], dict[str, Any]], Awaitable[Reply]]:
        return {
            ("GET", "/.well-known/ssf-configuration"): self._discover,
            ("GET", "/event-jwks"): self._keys,
            ("GET", "/ssf/streams"): self._streams,
            ("POST", "/ssf/streams"): self._create,
            ("PATCH", "/ssf/streams"): self._move,
            ("GET", "/ssf/status"): self._status,
            ("POST", "/ssf/verify"): self._verify,
            ("POST", "/ssf/confirm"): self._confirm,
            ("POST", "/ssf/poll/p"): self._poll,
            ("GET", "/consents/changes"): self._changes,
            ("GET", "/consents/snapshot"): self._snapshot,
        }.get((method, path), self._unknown)

    async def _unknown(self, *_: object) -> Reply:
        return 404, {"code": "unknown_path"}

    async def _discover(self, *_: object) -> Reply:
        return 200, {
            "spec_version": "1_0",
            "issuer": self.issuer,
            "jwks_uri": self.issuer + "/event-jwks",
            "delivery_methods_supported": [PUSH, POLL],
            "configuration_endpoint": self.issuer + "/ssf/streams",
            "status_endpoint": self.issuer + "/ssf/status",
            "verification_endpoint": self.issuer + "/ssf/verify",
            "ccs_confirmation_endpoint": self.issuer + "/ssf/confirm",
        }

    async def _keys(self, *_: object) -> Reply:
        return 200, await self.telling.event_keys()

    async def _streams(self, *_: object) -> Reply:
        return 200, [self._view(one) for one in await self.telling.streams()]

    async def _create(self, _: object, body: dict[str, Any]) -> Reply:
        delivery = body["delivery"]
        url = delivery["endpoint_url"] if delivery["method"] == PUSH else None
        return 201, self._view(await self.telling.create_stream(url))

    async def _move(self, _: object, body: dict[str, Any]) -> Reply:
        if body["stream_id"] not in self.telling.made:
            raise NoSuchStream("no such stream")
        return 200, self._view(await self.telling.move_stream(body["stream_id"], body["delivery"]["endpoint_url"]))

    async def _status(self, query: dict[str, str], _: object) -> Reply:
        return 200, {"stream_id": query["stream_id"], "status": await self.telling.status(query["stream_id"])}

    async def _verify(self, _: object, body: dict[str, Any]) -> Reply:
        await self.telling.verify(body["stream_id"], body.get("state"))
        return 204, None

    async def _confirm(self, _: object, body: dict[str, Any]) -> Reply:
        await self.telling.confirm(body["stream_id"], body["challenge"])
        return 200, {"stream_id": body["stream_id"], "status": "enabled"}

    async def _poll(self, _: object, body: dict[str, Any]) -> Reply:
        from tests.support.told import POLL_URL

        assert body["returnImmediately"] is True
        errors = {
            jti: RefusedEvent(ErrorCode(error["err"]), error["description"])
            for jti, error in body.get("setErrs", {}).items()
        }
        polled = await self.telling.poll(POLL_URL, body.get("ack", []), body["maxEvents"], errors)
        return 200, {"sets": polled.sets, "moreAvailable": polled.more_available}

    async def _changes(self, query: dict[str, str], _: object) -> Reply:
        return 200, await self.telling.changes(int(query["after_seq"]), query.get("incarnation", ""))

    async def _snapshot(self, query: dict[str, str], _: object) -> Reply:
        return 200, await self.telling.snapshot(query.get("cursor"))

    def _view(self, stream: Stream) -> dict[str, Any]:
        url = stream.endpoint_url if stream.is_push else f"{self.issuer}/ssf/poll/p"
        method = PUSH if stream.is_push else POLL
        return {"stream_id": stream.stream_id, "iss": self.issuer, "delivery": {"method": method, "endpoint_url": url}}
