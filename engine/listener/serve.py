"""Serving requests on given listening sockets: accept, prove, read, answer in order, drain.

One task a connection and one deadline a connection, moved when it must be and not for every request. All whole
requests that one read brought are answered by one write. Nothing that a peer or a handler does ends the server.
"""

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Clock, Seconds, UnixTime
from engine.consent.records import Thumbprint
from engine.listener.http1 import (
    CONTINUE,
    HeadLimits,
    HeadMemo,
    Refused,
    Request,
    Response,
    ServerConnection,
    Signal,
    refusal_response,
    render_response,
)
from engine.listener.refusals import with_headers
from engine.listener.request_ids import echo_of
from engine.listener.tls import Credentials, HandshakeFailed, Peer, TlsWire
from engine.listener.wire import PeerGone, PlainWire, Wire
from engine.telemetry import logs
from engine.telemetry.floods import Floods

Handler = Callable[[Request, Peer], Awaitable[Response]]

ANYONE: Final = Peer(Thumbprint(b""), UnixTime(2**62))  # the peer of a plain listener: no participant has it
SERVER_ERROR: Final = Response(500, b'{"error":"server_error"}')
_LINGER: Final = Seconds(1.0)  # how long a refused peer is listened to, so that it sees the answer and not a reset
_LINGER_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 1 << 18  # answers gathered before they are written
_BATCH_ANSWERS: Final = 64  # and before other connections have their turn: a read can hold ten thousand requests
_TIMED_EVERY: Final = 8  # one request in so many is timed
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_LEVELS: Final = {"certificate_expired": logging.INFO, "request_refused": logging.INFO}

_log = logs.logger("listener")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server bears. Waits in seconds; drain_timeout bounds the whole drain."""

    http: HeadLimits = HeadLimits()
    max_connections: int = 10_000
    idle_timeout: Seconds = Seconds(75.0)
    request_timeout: Seconds = Seconds(10.0)
    handshake_timeout: Seconds = Seconds(10.0)
    drain_timeout: Seconds = Seconds(10.0)


class Statistics(msgspec.Struct, frozen=True):
    """Counts since the server began. answered: by status; overdue: connections cut by a deadline."""

    connections: int
    accepted: int
    handshakes_failed: int
    overdue: int
    handler_errors: int
    answered: dict[int, int]


class Observer(Protocol):
    """Told the seconds a handler took, for one request in eight."""

    def __call__(self, seconds: float, /) -> None: ...


class Server:
    """A running server, as `serve` hands it to whoever started it."""

    def __init__(
        self, handler: Handler, tls: Credentials | None, limits: Limits, clock: Clock, observe: Observer | None
    ) -> None:
        self.handler = handler
        self.tls = tls
        self.limits = limits
        self.clock = clock
        self.observe = observe
        self.memo = HeadMemo()
        self.draining = trio.Event()
        self.accepted = self.handshakes_failed = self.overdue = self.handler_errors = self.seen = 0
        self.answered: dict[int, int] = {}
        self._connections: set[_Connection] = set()
        self._room = trio.Event()
        self._date_at = UnixTime(-1)
        self._date = b""
        self._floods = Floods()

    def drain(self) -> None:
        """Stop accepting, answer what is under way, then end; `serve` returns within `drain_timeout`."""
        self.draining.set()

    def statistics(self) -> Statistics:
        """What has happened so far."""
        return Statistics(
            connections=len(self._connections),
            accepted=self.accepted,
            handshakes_failed=self.handshakes_failed,
            overdue=self.overdue,
            handler_errors=self.handler_errors,
            answered=dict(self.answered),
        )

    def date(self, now: UnixTime) -> bytes:
        """The `Date` line (RFC 9110 section 6.6.1), made once a second."""
        if now != self._date_at:
            self._date_at = now
            self._date = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._date

    async def accept_on(self, listening: socket.socket, serving: trio.Nursery) -> None:
        """Accept for ever. At the cap nothing is accepted: other workers share the queue, then the kernel's waits."""
        while True:
            while len(self._connections) >= self.limits.max_connections:
                await self._room.wait()
            await trio.lowlevel.wait_readable(listening)
            if len(self._connections) >= self.limits.max_connections:
                continue
            try:
                connected, _ = listening.accept()
            except OSError as error:  # BlockingIOError: another worker was faster
                if error.errno in _NO_DESCRIPTORS:
                    self.log("cannot_accept", error=str(error))
                    await trio.sleep(0.1)
                continue
            self._admit(connected, serving)

    def _admit(self, connected: socket.socket, serving: trio.Nursery) -> None:
        connected.setblocking(False)  # noqa: FBT003 - the socket's own signature
        with contextlib.suppress(OSError):  # not for unix sockets
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        connection = _Connection(self, connected)
        self._connections.add(connection)
        self._room = trio.Event() if self._room.is_set() else self._room
        serving.start_soon(connection.run)

    async def respond(self, request: Request, peer: Peer) -> Response:
        """The handler's answer; one that raises has answered 500."""
        self.seen += 1
        began = time.perf_counter() if self.observe and not self.seen % _TIMED_EVERY else 0.0
        try:
            response = await self.handler(request, peer)
        except Exception:
            self.handler_errors += 1
            self.log("handler_failed", exc_info=True, method=request.method.decode())
            response = with_headers(SERVER_ERROR, echo_of(request.headers))
        if began and self.observe:
            self.observe(time.perf_counter() - began)
        self.count(response.status)
        return response

    def count(self, status: int) -> None:
        """One more answer of this status."""
        self.answered[status] = self.answered.get(status, 0) + 1

    def log(self, event: str, **fields: object) -> None:
        """Write what peers can cause, unless this second has seen enough of it."""
        left_out = self._floods.admit(event, trio.current_time())
        if left_out is not None:
            level = _LEVELS.get(event, logging.ERROR)
            _log.log(level, event, left_out=left_out, **fields)

    def forget(self, connection: "_Connection") -> None:
        """The connection has ended."""
        self._connections.discard(connection)
        self._room.set()

    def call_last_orders(self) -> None:
        """Wake idle connections, so that they end; the others end after the request they are at."""
        for connection in self._connections:
            if connection.idle:
                connection.scope.cancel()


class _Connection:
    """One accepted connection from handshake to close."""

    def __init__(self, server: Server, connected: socket.socket) -> None:
        self.server = server
        self.scope = trio.CancelScope()
        self.idle = False
        self._hurried = True  # a deadline shorter than the idle one is set
        self._plain = PlainWire(connected)
        self._http = ServerConnection(server.limits.http, server.memo)

    async def run(self) -> None:
        """Serve until either side has enough. Raises nothing but Cancelled."""
        try:
            await self._serve()
        except PeerGone:
            pass
        except HandshakeFailed as fault:
            self.server.handshakes_failed += 1
            _log.debug("handshake_failed", detail=fault.detail)  # counted; anybody could fill a log with it
        except Exception:
            self.server.log("connection_failed", exc_info=True)  # a fault of ours costs this connection, not the server
        finally:
            self._plain.close()
            self.server.forget(self)

    async def _serve(self) -> None:
        wire: Wire | None = None
        peer = ANYONE
        with self.scope:
            wire, peer = await self._prove()
            await self._converse(wire, peer)
        if not self.scope.cancelled_caught:
            return
        if wire is None or not self.idle or not self.server.draining.is_set():
            self.server.overdue += 1
            return
        with trio.move_on_after(self.server.limits.request_timeout):
            await self._part(wire, peer)

    async def _prove(self) -> tuple[Wire, Peer]:
        if self.server.tls is None:
            return self._plain, ANYONE
        self._within(self.server.limits.handshake_timeout)
        context = self.server.tls.context
        wire = TlsWire(self._plain, context)
        peer = await wire.handshake()
        if wire.resumable:
            self.server.tls.retire(context)
        return wire, peer

    async def _converse(self, wire: Wire, peer: Peer) -> None:
        http, draining = self._http, self.server.draining
        while not (draining.is_set() and http.idle):
            self._set_deadline()
            self.idle = http.idle
            data = await wire.receive()
            self.idle = False
            if not data:
                return wire.end()
            http.receive_data(data)
            if not await self._answer(wire, peer):
                return await self._linger(wire)
        return await self._part(wire, peer)

    def _set_deadline(self) -> None:
        """Idle connections have long, half-received requests little time; the idle deadline is moved seldom."""
        limits = self.server.limits
        now = trio.current_time()
        if not self._http.idle:
            if not self._hurried:
                self._hurried = True
                self.scope.deadline = now + limits.request_timeout
        elif self._hurried or self.scope.deadline < now + limits.idle_timeout:
            self._hurried = False
            self.scope.deadline = now + limits.idle_timeout * 1.125

    def _within(self, seconds: float) -> None:
        self._hurried = True
        self.scope.deadline = trio.current_time() + seconds

    async def _answer(self, wire: Wire, peer: Peer) -> bool:
        """Answer every whole request at hand, in order, with one write; False = the conversation is over."""
        answers: list[bytes] = []
        size, goes_on = 0, True
        while goes_on and (event := self._http.next_event()) is not Signal.NEED_DATA:
            if isinstance(event, Request):
                raw, goes_on = await self._respond(event, peer)
            elif isinstance(event, Refused):
                raw, goes_on = self._refuse(event), False
            else:
                raw = CONTINUE
            answers.append(raw)
            size += len(raw)
            if size > _BATCH_BYTES or len(answers) >= _BATCH_ANSWERS:
                await self._send(wire, b"".join(answers))
                await trio.lowlevel.checkpoint()
                answers, size = [], 0
        if answers:
            await self._send(wire, answers[0] if len(answers) == 1 else b"".join(answers))
        return goes_on

    async def _respond(self, request: Request, peer: Peer) -> tuple[bytes, bool]:
        server = self.server
        now = server.clock.now()
        if peer.not_after < now:  # RFC 5280 section 4.1.2.5: the period includes its end
            server.log("certificate_expired", thumbprint=peer.thumbprint.hex())
            return b"", False
        limits = server.limits
        if self._hurried or self.scope.deadline < trio.current_time() + limits.request_timeout:
            self._within(max(limits.idle_timeout, limits.request_timeout))  # else one that came late is cut off
        response = await server.respond(request, peer)
        keep_alive = request.keep_alive and not response.close
        if keep_alive and server.draining.is_set():
            keep_alive = not self._http.idle
        raw = render_response(response, keep_alive, date=server.date(now), head_only=request.method == b"HEAD")
        return raw, keep_alive

    def _refuse(self, refused: Refused) -> bytes:
        self.server.log("request_refused", status=refused.status, reason=refused.reason)
        self.server.count(refused.status)
        response = with_headers(refusal_response(refused), echo_of(refused.headers))
        return render_response(response, keep_alive=False, date=self.server.date(self.server.clock.now()))

    async def _send(self, wire: Wire, data: bytes) -> None:
        if not wire.send_nowait(data):
            self._within(self.server.limits.request_timeout)
            await wire.flush()

    async def _part(self, wire: Wire, peer: Peer) -> None:
        """Draining: a request that has just arrived is answered still; then goodbye."""
        data = wire.receive_nowait()
        if data:
            self._http.receive_data(data)
            await self._answer(wire, peer)
        await self._linger(wire)

    async def _linger(self, wire: Wire) -> None:
        """Close, but read on a little: unread bytes would make the kernel send a reset that overtakes the answer."""
        wire.end()
        with trio.move_on_after(_LINGER):
            await self._plain.discard(_LINGER_BYTES)


async def serve(
    handler: Handler,
    sockets: Sequence[socket.socket],
    tls: Credentials | None,
    limits: Limits,
    *,
    clock: Clock,
    observe: Observer | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on listening sockets until the started `Server` is drained; owns the sockets from then on.

    tls None: plain HTTP, for loopback only. observe: told how long handlers take.
    """
    server = Server(handler, tls, limits, clock, observe)
    async with trio.open_nursery() as serving:
        try:
            async with trio.open_nursery() as accepting:
                for listening in sockets:
                    listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
                    accepting.start_soon(server.accept_on, listening, serving)
                task_status.started(server)
                await server.draining.wait()
                accepting.cancel_scope.cancel()
        finally:
            for listening in sockets:
                listening.close()
        serving.cancel_scope.deadline = trio.current_time() + limits.drain_timeout
        server.call_last_orders()
