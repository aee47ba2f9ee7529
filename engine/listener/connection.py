"""One accepted connection, from handshake to close, as a machine that the readiness loop turns.

It owns its socket and moves bytes with one system call each way for a request; all whole requests that one read brought
are answered by one write. It never waits: when the peer must send, or take, or a handler must wait for something, it
goes back into the line, and the sweep ends whoever takes longer than allowed.
"""

import contextlib
import enum
import socket
from collections.abc import Awaitable
from typing import Final, Protocol

import trio

from engine.clock import Seconds, UnixTime
from engine.consent.records import Thumbprint
from engine.listener.http1 import (
    CONTINUE,
    HeadMemo,
    Refused,
    Request,
    Response,
    ServerConnection,
    Signal,
    refusal_response,
    render_response,
    request_id_of,
)
from engine.listener.limits import Limits
from engine.listener.readiness import IN, OUT, Readiness
from engine.listener.tls import Credentials, HandshakeFailed, Peer, PeerGone, TlsSession
from engine.telemetry import logs

ANYONE: Final = Peer(Thumbprint(b""), UnixTime(2**62))  # the peer of a plain listener: no participant has it

_LINGER: Final = Seconds(1.0)  # how long a refused peer is listened to, so that it sees the answer and not a reset
_LINGER_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 1 << 18  # answers gathered before they are written
_BATCH_ANSWERS: Final = 64  # and before other connections have their turn: a read can hold ten thousand requests
_NEED_DATA: Final = Signal.NEED_DATA

_log = logs.logger("listener")


class State(enum.Enum):
    """Where a connection stands."""

    PROVING = "proving"  # the handshake
    OPEN = "open"
    WAITING = "waiting"  # a handler waits for something; the peer is not read meanwhile
    PARTING = "parting"  # all is said; what still comes is thrown away
    CLOSED = "closed"


_PROVING: Final = State.PROVING
_OPEN: Final = State.OPEN
_PARTING: Final = State.PARTING
_CLOSED: Final = State.CLOSED


class Host(Protocol):
    """What a connection needs of the server it is one of."""

    limits: Limits
    tls: Credentials | None
    memo: HeadMemo
    readiness: Readiness
    waiting_room: trio.Nursery
    is_draining: bool
    now: float  # trio's clock as this round began
    wall: UnixTime
    date: bytes
    space: memoryview  # what is read goes here first

    def tick(self) -> None: ...
    def respond(self, request: Request, peer: Peer) -> Response | Awaitable[Response]: ...
    def abandon(self, answer: Awaitable[Response]) -> None: ...
    async def conclude(self, request: Request, answer: Awaitable[Response]) -> Response: ...
    def count(self, status: int) -> None: ...
    def log(self, event: str, **fields: object) -> None: ...
    def enter(self, connection: "Connection") -> Response | None: ...
    def forget(self, connection: "Connection") -> None: ...
    def note_failed_handshake(self) -> None: ...


class Connection:
    """A `readiness.Member`. Nothing that the peer or a handler does raises here."""

    __slots__ = (
        "_began",
        "_descriptor",
        "_held",
        "_host",
        "_http",
        "_is_owed",
        "_left",
        "_refusal",
        "_scope",
        "_socket",
        "_tls",
        "_touched",
        "_unsent",
        "peer",
        "state",
    )

    def __init__(self, host: Host, connected: socket.socket) -> None:
        self.state = State.PROVING
        self.peer = ANYONE
        self._host = host
        self._socket = connected
        self._descriptor = connected.fileno()
        self._http = ServerConnection(host.limits.http, host.memo)
        self._tls: TlsSession | None = None
        self._unsent = b""
        self._held = b""  # to be sent within this round of the loop
        self._is_owed = False  # requests are at hand that had no turn yet
        self._refusal: Response | None = None  # the answer to whatever this peer asks
        self._scope: trio.CancelScope | None = None  # of a handler that waits
        self._left = _LINGER_BYTES
        self._touched = self._began = host.now = trio.current_time()  # _began: of what must not take long; 0.0 = idle

    def start(self) -> None:
        """Stand in line."""
        credentials = self._host.tls
        self._host.readiness.greet(self._descriptor, self)
        if credentials is None:
            self._settle()
        else:
            self._tls = TlsSession(credentials)

    # The loop's two calls.

    def on_ready(self) -> None:
        """The socket is readable; or, where bytes are unsent, writable."""
        try:
            if self._unsent:
                self._send_rest()
            elif self.state is _OPEN:
                if not self._is_owed:  # else this turn's place is taken by `go_on`
                    self._read()
            elif self.state is _PROVING:
                self._prove()
            elif self.state is _PARTING:
                self._discard()
        except PeerGone:
            self.close()
        except Exception:
            self._host.log("connection_failed", exc_info=True)  # a fault of ours costs this connection, not the server
            self.close()

    def go_on(self) -> None:
        """Another turn for what is at hand."""
        self._is_owed = False
        if self.state is not _OPEN or self._unsent:
            return
        try:
            self._answer()
            self._take_rest()
            if self._host.is_draining:
                self.last_orders()
        except PeerGone:
            self.close()
        except Exception:
            self._host.log("connection_failed", exc_info=True)
            self.close()

    # Reading.

    def _receive(self) -> memoryview | None:
        """What the socket has; None = nothing yet. Empty: the peer has ended. Raises PeerGone."""
        space = self._host.space
        try:
            return space[: self._socket.recv_into(space)]
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error

    def _read(self) -> None:
        arrived = self._receive()
        if arrived is None:
            return
        if not arrived:  # cut off without close_notify: nothing is lost, requests carry their own lengths
            self._part()
            return
        tls = self._tls
        data = bytes(arrived) if tls is None else tls.decrypt(arrived)
        if data:
            self._http.receive_data(data)
            self._answer()
        if tls is not None and (tls.more or tls.ended):
            self._take_rest()

    def _take_rest(self) -> None:
        """Records that have arrived and were not decrypted yet; then a goodbye that came with them."""
        tls = self._tls
        if tls is None or not self._may_go_on():
            return
        if tls.more:
            data = tls.decrypt(b"")
            if data:
                self._http.receive_data(data)
                self._answer()
        if not self._may_go_on():
            return
        if tls.more:
            self._owe()
        elif tls.ended:
            self._part()

    def _may_go_on(self) -> bool:
        return self.state is _OPEN and not self._unsent and not self._is_owed

    def _owe(self) -> None:
        if not self._is_owed:
            self._is_owed = True
            self._host.readiness.again(self)

    # Handshake.

    def _prove(self) -> None:
        arrived = self._receive()
        tls = self._tls
        if arrived is None or tls is None:
            return
        try:
            if not arrived:
                raise HandshakeFailed("the TLS handshake failed", detail="the peer left")
            peer = tls.handshake(arrived)
        except HandshakeFailed as fault:
            self._host.note_failed_handshake()
            _log.debug("handshake_failed", detail=fault.detail)  # counted; anybody could fill a log with it
            with contextlib.suppress(OSError):
                self._socket.send(tls.outgoing())  # the alert
            self.close()
            return
        if peer is None:
            self._put_on_wire(tls.outgoing())
            return
        self.peer = peer
        self._settle()
        self._put_on_wire(tls.outgoing())
        self._refusal = self._host.enter(self)
        self._begin()

    def _settle(self) -> None:
        self.state = _OPEN
        self._host.readiness.settle(self._descriptor)
        self._touched = self._host.now
        self._began = 0.0

    def _begin(self) -> None:
        """Requests may have come with the end of the handshake."""
        tls = self._tls
        if tls is not None:
            data = tls.decrypt(b"")
            if data:
                self._http.receive_data(data)
                self._answer()
            self._take_rest()
        if self._host.is_draining:
            self.last_orders()

    # Answering.

    def _answer(self) -> None:  # noqa: PLR0912 - one turn of the hot path, told in order; calls would cost a tenth
        """Answer every whole request at hand, in order, with one write."""
        http, host, peer = self._http, self._host, self.peer
        self._touched = host.now
        answers: list[bytes] = []
        size = 0
        while True:
            event = http.next_event()
            if type(event) is Request:
                if peer.not_after < host.wall:  # RFC 5280 section 4.1.2.5: the period includes its end
                    host.log("certificate_expired", thumbprint=peer.thumbprint.hex())
                    self._send_last(answers)
                    return
                response = self._refusal or host.respond(event, peer)
                if type(response) is not Response:
                    self._wait_for(event, response, answers)  # type: ignore[arg-type] # mypy does not narrow by type()
                    return
                raw, keep_alive = self._rendered(event, response)
                answers.append(raw)
                if not keep_alive:
                    self._send_last(answers)
                    return
            elif event is _NEED_DATA:
                break
            elif type(event) is Refused:
                answers.append(self._refuse(event))
                self._send_last(answers)
                return
            else:
                raw = CONTINUE
                answers.append(raw)
            size += len(raw)
            if size > _BATCH_BYTES or len(answers) >= _BATCH_ANSWERS:
                self._owe()
                break
        if answers:
            self._send_soon(answers[0] if len(answers) == 1 else b"".join(answers))
        if self._unsent:
            return
        if http.idle:
            self._began = 0.0
        elif answers or not self._began:  # what is left is the next request's beginning
            self._began = host.now

    def _rendered(self, request: Request, response: Response) -> tuple[bytes, bool]:
        host = self._host
        keep_alive = request.keep_alive and not response.close and not (host.is_draining and self._http.idle)
        is_head = request.method == b"HEAD"
        raw = render_response(response, keep_alive, date=host.date, head_only=is_head, request_id=request.request_id)
        return raw, keep_alive

    def _refuse(self, refused: Refused) -> bytes:
        self._host.log("request_refused", status=refused.status, reason=refused.reason)
        self._host.count(refused.status)
        return render_response(
            refusal_response(refused),
            keep_alive=False,
            date=self._host.date,
            request_id=request_id_of(refused.headers),
        )

    def _wait_for(self, request: Request, answer: Awaitable[Response], answers: list[bytes]) -> None:
        """Let a task wait for the handler; nobody is read or answered here until it is done."""
        try:
            if answers:
                self._send(b"".join(answers))
            elif self._held:  # while it rests nobody would see that it did not go out
                self._put_on_wire(b"")
        except PeerGone:
            self._host.abandon(answer)
            raise
        self.state = State.WAITING
        if not self._unsent:
            self._host.readiness.rest(self._descriptor)
        self._began = self._host.now
        self._host.waiting_room.start_soon(self._await, request, answer)

    async def _await(self, request: Request, answer: Awaitable[Response]) -> None:
        response = None
        with trio.CancelScope() as self._scope:
            response = await self._host.conclude(request, answer)
        self._scope = None
        if response is None or self.state is _CLOSED:
            self.close()
            return
        try:
            self._resume(request, response)
        except PeerGone:
            self.close()
        except Exception:
            self._host.log("connection_failed", exc_info=True)
            self.close()

    def _resume(self, request: Request, response: Response) -> None:
        host = self._host
        host.tick()
        self.state = _OPEN
        if not self._unsent:
            host.readiness.come_back(self._descriptor)
        self._began, self._touched = host.now if self._unsent else 0.0, host.now
        raw, keep_alive = self._rendered(request, response)
        if not keep_alive:
            self._send_last([raw])
            return
        self._send(raw)
        self.go_on()

    # Writing.

    def _send(self, data: bytes) -> None:
        self._put_on_wire(data if self._tls is None else self._tls.encrypt(data))

    def _send_soon(self, data: bytes) -> None:
        """With the answers of others, a moment later; see `Readiness.post_later`."""
        data = data if self._tls is None else self._tls.encrypt(data)
        if self._unsent or self._held or not self._host.readiness.post_later(self):
            self._put_on_wire(data)
        else:
            self._held = data

    def post(self) -> None:
        """Send what was held back."""
        held, self._held = self._held, b""
        if not held or self.state is _CLOSED:
            return
        try:
            self._put_on_wire(held)
        except PeerGone:
            self.close()

    def _put_on_wire(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        if sent != len(data):
            self._unsent = data[sent:]
            self._began = self._host.now
            self._watch(OUT)

    def _watch(self, interest: int) -> None:
        if self.state is _PROVING:
            self._host.readiness.watch_newcomer(self._descriptor, interest)
        elif self.state is not State.WAITING:
            self._host.readiness.watch(self._descriptor, interest)

    def _send_rest(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        self._unsent = self._unsent[sent:]
        if self._unsent:
            return
        if self.state is State.WAITING:
            self._host.readiness.rest(self._descriptor)
            return
        self._watch(IN)
        if self.state is _PARTING:
            self._began = self._host.now
            self._half_close()
            return
        self._began = 0.0 if self._http.idle else self._host.now
        if self.state is _OPEN:
            self._owe()

    # Parting.

    def _send_last(self, answers: list[bytes]) -> None:
        if answers:
            self._send(b"".join(answers))
        self._part()

    def _part(self) -> None:
        """Say goodbye, but read on a little: unread bytes would make the kernel send a reset that overtakes answers."""
        if self.state is _CLOSED:
            return
        if self._tls is not None:
            goodbye = self._tls.goodbye()
            if goodbye:
                self._put_on_wire(goodbye)
        if self._held:
            self._put_on_wire(b"")
        self.state = _PARTING
        self._began = self._host.now
        if not self._unsent:
            self._half_close()

    def _half_close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _discard(self) -> None:
        arrived = self._receive()
        if arrived is None:
            return
        self._left -= len(arrived)
        if not arrived or self._left <= 0:
            self.close()

    def last_orders(self) -> None:
        """The server drains. An idle connection ends, after a request that has just arrived; others end later."""
        if not self._may_go_on() or not self._http.idle:
            return
        try:
            self._read()
            if self._may_go_on() and self._http.idle:
                self._part()
        except PeerGone:
            self.close()
        except Exception:
            self._host.log("connection_failed", exc_info=True)
            self.close()

    def close(self) -> None:
        """End at once."""
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        if self._scope is not None:
            self._scope.cancel()
        self._host.readiness.forget(self._descriptor)
        self._socket.close()
        self._host.forget(self)

    def is_overdue(self, now: float) -> bool:
        """Whether this connection has taken longer for something than allowed."""
        limits = self._host.limits
        if self.state is _PROVING:
            return now - self._began > limits.handshake_timeout
        if self.state is _PARTING and not self._unsent:
            return now - self._began > _LINGER
        if self.state is State.WAITING:
            return now - self._began > max(limits.idle_timeout, limits.request_timeout)
        if self._began or self._unsent:
            return now - self._began > limits.request_timeout
        return now - self._touched > limits.idle_timeout

    @property
    def is_parting(self) -> bool:
        """Whether all was said."""
        return self.state is _PARTING
