"""Where pushed events arrive: RFC 8935 over mutual TLS, for trio and asyncio alike.

Only who shows a certificate of the configured authority is spoken to, and only one whose certificate is pinned, where
pins are set, is listened to; all others take no place from it (`engine.guard.handshakes`). 202 goes out after the event
is on disk and was applied, and never otherwise.
"""

import hashlib
import ssl
from typing import Final
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskStatus
from anyio.streams.tls import TLSAttribute, TLSStream

from engine.clock import Clock, Seconds
from engine.config import BadConfig
from engine.consent.records import Thumbprint
from engine.errors import Fault, Kind
from engine.events.verification import MAX_EVENT_BYTES, ErrorCode, RefusedEvent
from engine.guard.config import Receiver
from engine.guard.event_keys import EventKeys
from engine.guard.handshakes import DEADLINE, Handshakes
from engine.guard.intake import Intake
from engine.listener.http1 import (
    CONTINUE,
    HeadLimits,
    Refused,
    Request,
    Response,
    ServerConnection,
    Signal,
    render_response,
)
from engine.listener.media import media_type
from engine.listener.sockets import CannotListen
from engine.listener.tls import BadTlsFiles, server_context
from engine.telemetry import logs
from engine.telemetry.floods import Floods

EVENT_MEDIA: Final = b"application/secevent+jwt"
RETRY_AFTER: Final = b"5"  # seconds: the first wait of the service's own schedule
IDLE: Final = Seconds(300.0)  # a heartbeat comes each minute: keep its connection
WHOLE: Final = Seconds(10.0)  # for a request once it has begun; the service gives up after five
LINGER: Final = Seconds(1.0)  # so that a refusal is read before the connection breaks
_LIMITS: Final = HeadLimits(max_head=16_384, max_body=MAX_EVENT_BYTES)
_LANGUAGE: Final = (b"Content-Language", b"en")

_log = logs.logger("events")


class ReceiverStatistics(msgspec.Struct, frozen=True):
    """connections: open now, of those who have shown who they are; handshakes: of the others.

    strangers: whose certificate is not pinned, since the start.
    """

    connections: int
    handshakes: int
    pushes: int
    strangers: int
    unavailable: int


class PushReceiver:
    """The path is that of the address that is registered with the service; others are 404."""

    def __init__(self, settings: Receiver, intake: Intake, keys: EventKeys, clock: Clock) -> None:
        self._settings = settings
        self._intake = intake
        self._keys = keys
        self._clock = clock
        self._path = (urlsplit(settings.public_url).path or "/events").encode()
        self._pins = pins_of(settings.pusher_thumbprints)
        self._tls = self._context()
        self._handshakes = Handshakes(settings.max_connections)
        self._floods = Floods()
        self._open = self._pushes = self._strangers = self._unavailable = 0
        self.port = 0
        self.pushed_at: float | None = None  # seconds since 1970: the last one taken

    def reload(self) -> None:
        """Take certificate, key and authority anew, for new connections. Raises BadConfig: nothing has changed."""
        self._tls = self._context()

    def statistics(self) -> ReceiverStatistics:
        """A frozen record of now."""
        return ReceiverStatistics(self._open, len(self._handshakes), self._pushes, self._strangers, self._unavailable)

    async def run(self, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started with the port. Raises CannotListen."""
        host, port = self._settings.host, self._settings.port
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            raise CannotListen(f"events.receiver: cannot listen on {host} port {port}: {error.strerror}") from error
        async with listener:
            self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
            task_status.started(self.port)
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        """One connection, from its first byte. Whatever happens on it ends here."""
        async with stream:
            try:
                known = await self._shake_hands(stream)
                if known is not None and self._open < self._settings.max_connections:
                    self._open += 1
                    try:
                        await self._talk(*known)
                    finally:
                        self._open -= 1
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, ssl.SSLError, OSError):
                pass  # the peer has gone, or was shown the door by a TLS alert
            except Exception as error:
                _log.error("push_connection_failed", error=repr(error))

    async def _shake_hands(self, stream: SocketStream) -> tuple[TLSStream, Thumbprint] | None:
        """Who is there; None: nobody whom we listen to. A stranger has its answer, and keeps no place for it."""
        peer = str(stream.extra(SocketAttribute.remote_address)[0])  # noqa: S610 - anyio's, not Django's
        with self._handshakes.place(peer) as scope:
            tls = await TLSStream.wrap(stream, server_side=True, ssl_context=self._tls, standard_compatible=False)
            shown = tls.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610 - anyio's, not Django's
            thumbprint = Thumbprint(hashlib.sha256(shown or b"").digest())
            if not self._pins or thumbprint in self._pins:
                return tls, thumbprint
            scope.deadline += DEADLINE
            await self._talk(tls, thumbprint)
        return None

    async def _talk(self, tls: TLSStream, thumbprint: Thumbprint) -> None:
        connection = ServerConnection(_LIMITS)
        while (event := await self._next(tls, connection)) is not None:
            if isinstance(event, Refused):
                await tls.send(render_response(_refused(event), keep_alive=False))
                await _linger(tls)
                return
            response = await self._answer(event, thumbprint)
            keep = event.keep_alive and not response.close
            await tls.send(render_response(response, keep, head_only=event.method == b"HEAD"))
            if not keep:
                return

    async def _next(self, tls: TLSStream, connection: ServerConnection) -> Request | Refused | None:
        """The next request; None: none has come in time, or no more will."""
        began: float | None = None
        while True:
            event = connection.next_event()
            if isinstance(event, Request | Refused):
                return event
            if event is Signal.SEND_CONTINUE:
                await tls.send(CONTINUE)
                continue
            if began is None and not connection.idle:
                began = anyio.current_time()
            with anyio.CancelScope(deadline=anyio.current_time() + IDLE if began is None else began + WHOLE) as scope:
                connection.receive_data(await tls.receive(65_536))
            if scope.cancelled_caught:
                return None

    async def _answer(self, request: Request, thumbprint: Thumbprint) -> Response:
        refusal = self._refuse_stranger(thumbprint) or _refuse_form(request, self._path)
        return refusal if refusal is not None else await self._take(request.body)

    async def _take(self, body: bytes) -> Response:
        self._pushes += 1
        try:
            await self._intake.take(body, self._keys)
        except RefusedEvent as refusal:
            return error_response(refusal.err, refusal.text)
        except Fault as fault:
            if fault.kind is not Kind.UNAVAILABLE:
                raise
            self._unavailable += 1
            left_out = self._floods.admit(type(fault).__name__, self._clock.boot())
            if left_out is not None:
                _log.error("event_not_taken", text=fault.text, detail=fault.detail, left_out=left_out)
            return Response(503, b"", headers=((b"Retry-After", RETRY_AFTER),))
        self.pushed_at = float(self._clock.now())
        return Response(202, b"")

    def _refuse_stranger(self, thumbprint: Thumbprint) -> Response | None:
        if not self._pins or thumbprint in self._pins:
            return None
        self._strangers += 1
        self._intake.security_event("stranger_pushes", f"certificate {thumbprint.hex()}")
        refusal = error_response(ErrorCode.ACCESS_DENIED, "this certificate is not the transmitter's")
        return msgspec.structs.replace(refusal, close=True)

    def _context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            return server_context(settings.certificate_file, settings.key_file, settings.client_ca_file)
        except BadTlsFiles as fault:
            raise BadConfig(f"events.receiver: {fault.text}") from fault


def pins_of(thumbprints: tuple[str, ...]) -> frozenset[Thumbprint]:
    """Hexadecimal, with colons or without, as `openssl x509 -fingerprint -sha256` prints it. Raises BadConfig."""
    try:
        pins = frozenset(Thumbprint(bytes.fromhex(text.replace(":", ""))) for text in thumbprints)
    except ValueError as error:
        raise BadConfig("events.receiver.pusher-thumbprints: not hexadecimal") from error
    if any(len(pin) != hashlib.sha256().digest_size for pin in pins):
        raise BadConfig("events.receiver.pusher-thumbprints: a SHA-256 thumbprint has 32 bytes")
    return pins


def error_response(err: ErrorCode, description: str) -> Response:
    """RFC 8935 section 2.3: 400, and why, in a language that is named."""
    body = msgspec.json.encode({"err": err.value, "description": description})
    return Response(400, body, headers=(_LANGUAGE,))


def _refuse_form(request: Request, path: bytes) -> Response | None:
    if request.target.partition(b"?")[0] != path:
        return Response(404, b"")
    if request.method != b"POST":
        return Response(405, b"", headers=((b"Allow", b"POST"),))
    types = [value for name, value in request.headers if name == b"content-type"]
    if [media_type(value) for value in types] != [EVENT_MEDIA]:
        return Response(415, b"")
    return None


def _refused(refused: Refused) -> Response:
    """What is no request that we read: 413 among them."""
    if refused.status == 400:
        return msgspec.structs.replace(error_response(ErrorCode.INVALID_REQUEST, "not a request"), close=True)
    return Response(refused.status, b"", close=True)


async def _linger(stream: ByteStream) -> None:
    """Take what the peer still sends, for a moment: closing on unread bytes would take our answer away from it."""
    with anyio.move_on_after(LINGER):
        while True:
            await stream.receive(65_536)
