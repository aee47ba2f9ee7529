"""The server: accept, let the connections have their turns, sweep out what takes too long, drain.

All connections of a server are turned by one task (`readiness`); a request gets a task of its own only when its handler
must wait for something. Nothing that a peer or a handler does ends the server.
"""

import contextlib
import errno
import inspect
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Clock, Seconds, UnixTime
from engine.listener.connection import ANYONE, Connection
from engine.listener.http1 import HeadMemo, Request, Response
from engine.listener.limits import Limits
from engine.listener.readiness import Readiness
from engine.listener.refusals import TRY_LATER
from engine.listener.tls import Credentials, Peer
from engine.telemetry import logs
from engine.telemetry.floods import Floods

__all__ = ["ANYONE", "Balance", "Gate", "Handler", "Limits", "Observer", "Peer", "Server", "Statistics", "serve"]

# A handler answers at once, or with something to be awaited when it must wait.
Handler = Callable[[Request, Peer], Response | Awaitable[Response]]

SERVER_ERROR: Final = Response(500, b'{"error":"server_error"}')
OVERLOADED: Final = Response(503, TRY_LATER, headers=((b"Retry-After", b"1"),))
_TIMED_EVERY: Final = 8  # one request in so many is timed
_NO_DESCRIPTORS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_SPACE: Final = 1 << 16  # bytes taken from a socket at once
_SWEEPS: Final = 4  # in the shortest of the waits
_LONGEST_SWEEP: Final = Seconds(0.5)
_MAX_PROVING: Final = 512  # handshakes under way, before newcomers wait in the kernel's queue

_LEVELS: Final = {"certificate_expired": logging.INFO, "request_refused": logging.INFO}

_log = logs.logger("listener")


class Statistics(msgspec.Struct, frozen=True):
    """Counts since the server began. answered: by status; overdue: connections cut by a deadline.

    shed: requests answered 503 because the server had too much to do. turned_away: connections that the gate kept out.
    """

    connections: int
    accepted: int
    handshakes_failed: int
    overdue: int
    handler_errors: int
    answered: dict[int, int]
    shed: int = 0
    turned_away: int = 0


class Observer(Protocol):
    """Told the seconds a handler took, for one request in eight."""

    def __call__(self, seconds: float, /) -> None: ...


class Balance(Protocol):
    """Spreads connections over workers that share one accept queue."""

    def wait(self, connections: int) -> float:
        """Seconds to hold back before accepting one more; 0.0 = none."""

    def now_has(self, connections: int) -> None:
        """Tell the others."""


class Gate(Protocol):
    """Judges a peer once, when it has proven itself."""

    def enter(self, peer: Peer) -> Response | None:
        """None = come in. Otherwise the answer to whatever it asks first; then it is sent away."""

    def leave(self, peer: Peer) -> None:
        """A connection that came in has ended."""


class Server:
    """A running server, as `serve` hands it to whoever started it."""

    def __init__(
        self,
        handler: Handler,
        tls: Credentials | None,
        limits: Limits,
        clock: Clock,
        observe: Observer | None,
        waiting_room: trio.Nursery,
        *,
        balance: Balance | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.handler = handler
        self.tls = tls
        self.limits = limits
        self.clock = clock
        self.observe = observe
        self.waiting_room = waiting_room
        self.memo = HeadMemo()
        self.draining = trio.Event()
        self.is_draining = False
        self.readiness = Readiness(self.tick, limits.shed_after)
        self.space = memoryview(bytearray(_SPACE))
        self.accepted = self.handshakes_failed = self.overdue = self.handler_errors = self.shed = self.seen = 0
        self.turned_away = 0
        self.waiting = 0
        self.answered: dict[int, int] = {}
        self.now = trio.current_time()
        self.wall = UnixTime(-1)
        self.date = b""
        self._balance = balance
        self._gate = gate
        self._connections: set[Connection] = set()
        self._entered: set[Connection] = set()  # have proven who they are
        self._let_in: set[Connection] = set()  # by the gate
        self._room = trio.Event()
        self._empty = trio.Event()
        self._floods = Floods()
        self.tick()

    def drain(self) -> None:
        """Stop accepting, answer what is under way, then end; `serve` returns within `drain_timeout`."""
        self.is_draining = True
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
            shed=self.shed,
            turned_away=self.turned_away,
        )

    def tick(self) -> None:
        """Read the clocks, as a round begins or when work is done between rounds; make the `Date` line once a second.

        RFC 9110 section 6.6.1.
        """
        self.now = trio.current_time()
        wall = self.clock.now()
        if wall != self.wall:
            self.wall = wall
            self.date = f"Date: {formatdate(wall, usegmt=True)}\r\n".encode()

    # Accepting.

    async def accept_on(self, listening: socket.socket) -> None:
        """Accept for ever. At the cap nothing is accepted: other workers share the queue, then the kernel's waits."""
        while True:
            while not self._has_room():
                if self._room.is_set():  # by somebody whose going or proving made none
                    self._room = trio.Event()
                await self._room.wait()
            await trio.lowlevel.wait_readable(listening)
            if self._balance is not None:
                await self._hold_back(self._balance)
            if not self._has_room():
                continue
            try:
                connected, _ = listening.accept()
            except OSError as error:  # BlockingIOError: another worker was faster
                if error.errno in _NO_DESCRIPTORS:
                    self.log("cannot_accept", error=str(error))
                    await trio.sleep(0.1)
                continue
            self._admit(connected)

    async def _hold_back(self, balance: Balance) -> None:
        seconds = balance.wait(len(self._connections))
        if seconds > 0:
            await trio.sleep(seconds)

    def _has_room(self) -> bool:
        proving = len(self._connections) - len(self._entered)
        return len(self._connections) < self.limits.max_connections and proving < _MAX_PROVING

    def _admit(self, connected: socket.socket) -> None:
        connected.setblocking(False)  # noqa: FBT003 - the socket's own signature
        with contextlib.suppress(OSError):  # not for unix sockets
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        connection = Connection(self, connected)
        self._connections.add(connection)
        self._tell_balance()
        try:
            connection.start()
        except (OSError, ssl.SSLError) as error:  # no place in the loop, no memory for TLS: this one goes, we stay
            self.log("cannot_serve", error=str(error))
            connection.close()
            return
        if self.tls is None:
            self._entered.add(connection)

    def _tell_balance(self) -> None:
        if self._balance is not None:
            self._balance.now_has(len(self._connections))

    # What connections need of us: `connection.Host`.

    def respond(self, request: Request, peer: Peer) -> Response | Awaitable[Response]:
        """The handler's answer, or what will be; one that raises has answered 500."""
        if self.readiness.late:
            return self._overloaded()
        self.seen += 1
        began = time.perf_counter() if self.observe and not self.seen % _TIMED_EVERY else 0.0
        try:
            response = self.handler(request, peer)
        except Exception:
            return self._failed(request)
        if type(response) is not Response:
            return self._awaited(response)
        if began and self.observe:
            self.observe(time.perf_counter() - began)
        self.answered[response.status] = self.answered.get(response.status, 0) + 1
        return response

    def _awaited(self, answer: Response | Awaitable[Response]) -> Response | Awaitable[Response]:
        if self.waiting < self.limits.max_waiting or not inspect.iscoroutine(answer):
            self.waiting += 1  # from now on: many may come in one round, before the first of their tasks begins
            return answer
        answer.close()
        return self._overloaded()

    def _overloaded(self) -> Response:
        self.shed += 1
        self.count(OVERLOADED.status)
        return OVERLOADED

    def abandon(self, answer: Awaitable[Response]) -> None:
        """Nobody is there any more to wait for a handler's answer."""
        self.waiting -= 1
        if inspect.iscoroutine(answer):
            answer.close()

    async def conclude(self, request: Request, answer: Awaitable[Response]) -> Response:
        """Wait for a handler's answer."""
        began = time.perf_counter() if self.observe and not self.seen % _TIMED_EVERY else 0.0
        try:
            response = await answer
        except Exception:
            return self._failed(request)
        finally:
            self.waiting -= 1
        if began and self.observe:
            self.observe(time.perf_counter() - began)
        self.count(response.status)
        return response

    def _failed(self, request: Request) -> Response:
        self.handler_errors += 1
        self.log("handler_failed", exc_info=True, method=request.method.decode())
        self.count(SERVER_ERROR.status)
        return SERVER_ERROR

    def count(self, status: int) -> None:
        """One more answer of this status."""
        self.answered[status] = self.answered.get(status, 0) + 1

    def log(self, event: str, **fields: object) -> None:
        """Write what peers can cause, unless this second has seen enough of it."""
        left_out = self._floods.admit(event, trio.current_time())
        if left_out is not None:
            level = _LEVELS.get(event, logging.ERROR)
            _log.log(level, event, left_out=left_out, **fields)

    def enter(self, connection: Connection) -> Response | None:
        """A connection has proven its peer."""
        self._room.set()
        self._entered.add(connection)
        if self._gate is None:
            return None
        refusal = self._gate.enter(connection.peer)
        if refusal is None:
            self._let_in.add(connection)
        else:
            self.turned_away += 1
        return refusal

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)
        self._entered.discard(connection)
        if self._gate is not None and connection in self._let_in:
            self._let_in.discard(connection)
            self._gate.leave(connection.peer)
        self._tell_balance()
        self._room.set()
        if not self._connections:
            self._empty.set()

    def note_failed_handshake(self) -> None:
        """No certificate, no common version, or no TLS at all."""
        self.handshakes_failed += 1

    # Ending.

    async def sweep(self) -> None:
        """End connections that take too long, for ever."""
        waits = (self.limits.idle_timeout, self.limits.request_timeout, self.limits.handshake_timeout)
        every = min(_LONGEST_SWEEP, *(wait / _SWEEPS for wait in waits))
        while True:
            await trio.sleep(every)
            now = trio.current_time()
            for connection in [held for held in self._connections if held.is_overdue(now)]:
                self.overdue += not connection.is_parting
                connection.close()

    async def last_orders(self) -> None:
        """Wake idle connections, so that they end; wait until the others have, or were given up."""
        self.tick()
        for connection in list(self._connections):
            connection.last_orders()
        with trio.move_on_after(self.limits.drain_timeout):
            while self._connections:
                self._empty = trio.Event()
                await self._empty.wait()

    def close(self) -> None:
        """End every connection at once."""
        for connection in list(self._connections):
            connection.close()
        self.readiness.close()


async def serve(
    handler: Handler,
    sockets: Sequence[socket.socket],
    tls: Credentials | None,
    limits: Limits,
    *,
    clock: Clock,
    observe: Observer | None = None,
    balance: Balance | None = None,
    gate: Gate | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on listening sockets until the started `Server` is drained; owns the sockets from then on.

    tls None: plain HTTP, for loopback only. observe: told how long handlers take.
    """
    async with trio.open_nursery() as waiting_room:
        server = Server(handler, tls, limits, clock, observe, waiting_room, balance=balance, gate=gate)
        try:
            await _serve_on(server, sockets, task_status)
        finally:
            server.close()
        waiting_room.cancel_scope.cancel()


async def _serve_on(server: Server, sockets: Sequence[socket.socket], task_status: trio.TaskStatus[Server]) -> None:
    async with trio.open_nursery() as turning:
        turning.start_soon(server.readiness.run)
        turning.start_soon(server.sweep)
        try:
            async with trio.open_nursery() as accepting:
                for listening in sockets:
                    listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
                    accepting.start_soon(server.accept_on, listening)
                task_status.started(server)
                await server.draining.wait()
                accepting.cancel_scope.cancel()
        finally:
            for listening in sockets:
                listening.close()
        await server.last_orders()
        turning.cancel_scope.cancel()
