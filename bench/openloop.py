"""An open-loop generator: requests are due at times fixed beforehand, whatever the server does meanwhile.

Latency counts from when a request was *due*, not from when it could be sent, so that a server that stalls is charged
for everybody who came during the stall (what is called coordinated omission is thereby corrected). Each connection has
one request in flight; who finds none free waits in a queue here, and that wait counts. The generator judges itself:
how late it noticed what was due is its lag, and figures taken with too much of it are refused; so are those of a
server whose core others used meanwhile.
"""

import contextlib
import gc
import itertools
import math
import multiprocessing
import os
import random
import re
import select
import socket
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Final, Self

import msgspec

from bench.target import BEFORE_ID, Door, Usage, take_second_core, usage_of, usage_of_all

EDP_TIMEOUT: Final = 2.0  # seconds, as an EDP's (retry strategy of the service)
CONNECT_TIMEOUT: Final = 10.0
WAKE_EARLY: Final = 0.0015  # epoll counts whole milliseconds; the rest of a wait is spent asking again
SCAN_EVERY: Final = 0.02  # seconds between looks for requests that have run out of time
RUN_TIMEOUT: Final = 300.0
MOST_WAITED: Final = 0.05  # of a run may pass with the server ready to go on while others have its core
GOOD_ANSWER: Final = b'"active":true'

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSING: Final = re.compile(rb"(?i)\r\nconnection: *close")


NOTHING: Final = Usage(0.0, 0.0)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to offer. rate: a second; infinite = closed loop, each connection always busy. Waits in seconds.

    patience: how long a request waits here for a free connection, before it is given up unsent.
    good_within: an answer that comes later than this after its request was due is no good to anyone.
    spin: keep the core busy until a request is due; otherwise sleep, and be late by as much as waking up takes.
    """

    rate: float
    count: int
    connections: int
    uniform: bool = False
    timeout: float = EDP_TIMEOUT
    patience: float = math.inf
    good_within: float = EDP_TIMEOUT
    longest: float = 120.0
    seed: int = 1
    expected: bytes = GOOD_ANSWER
    spin: bool = True


def closed_loop(count: int, connections: int) -> Load:
    """Everything is due at once and nothing is ever too late: as fast as answers come."""
    return Load(rate=math.inf, count=count, connections=connections, timeout=math.inf, good_within=math.inf)


def schedule(load: Load) -> "array[float]":
    """Seconds from the start at which requests are due: evenly spaced, or a Poisson process of that rate."""
    if load.uniform or math.isinf(load.rate):
        return array("d", (number / load.rate for number in range(load.count)))
    draw = random.Random(load.seed)  # noqa: S311 - arrivals, not secrets
    return array("d", itertools.accumulate(draw.expovariate(load.rate) for _ in range(load.count)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: the least value that at least this share of them does not exceed. ordered: not empty."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the most of some seconds; empty where there are none."""
    if not values:
        return {}
    ordered = sorted(values)
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(percentile(ordered, share) * 1e3, 3) for name, share in shares.items()}


class Tally(msgspec.Struct):
    """What came of a load; latencies and lags in seconds.

    good: latencies of answers that were right and in time; due: when each of these was due, from the start.
    late: right, but not in time. statuses: of all answers. timeouts: sent, no answer in time. given_up: never sent.
    broken: the connection ended. wrong: 200, but not expected. began: on the monotonic clock that processes share.
    generator, server: what either process used meanwhile.
    """

    good: list[float] = []
    due: list[float] = []
    lags: list[float] = []
    statuses: dict[str, int] = {}
    late: int = 0
    timeouts: int = 0
    given_up: int = 0
    broken: int = 0
    wrong: int = 0
    reconnected: int = 0
    began: float = 0.0
    elapsed: float = 0.0
    generator: Usage = NOTHING
    server: Usage = NOTHING

    @property
    def answered(self) -> int:
        """With whatever status."""
        return sum(self.statuses.values())

    def failures(self) -> int:
        """Requests that did not end well."""
        refused = self.answered - self.statuses.get("200", 0)
        return self.late + self.timeouts + self.given_up + self.broken + self.wrong + refused

    def figures(self, load: Load) -> dict[str, object]:
        """For people and for JSON. latency_ms: over all that was offered; a failure counts as the whole time-out."""
        worst = min(load.timeout, load.longest)
        return {
            "offered_per_second": None if math.isinf(load.rate) else round(load.rate),
            "answered_per_second": round(self.answered / self.elapsed),
            "good_per_second": round(len(self.good) / self.elapsed),
            "latency_ms": milliseconds(self.good + [worst] * self.failures()),
            "good_ms": milliseconds(self.good),
            "lag_ms": milliseconds(self.lags),
            "statuses": self.statuses,
            "failures": self.failures(),
            "late": self.late,
            "timeouts": self.timeouts,
            "given_up": self.given_up,
            "broken": self.broken,
            "wrong": self.wrong,
            "reconnected": self.reconnected,
        }

    def refusal(self, bound: float) -> str:
        """Why this run must not be quoted; empty if it may. bound: of the lag's p99, in seconds."""
        lag = percentile(sorted(self.lags), 0.99) if self.lags else math.inf
        if lag > bound:
            return f"the generator lagged: p99 of {lag * 1e3:.2f} ms, more than {bound * 1e3:.2f} ms"
        if self.server.waited > MOST_WAITED * self.elapsed:
            return f"others had the server's core: it waited {self.server.waited:.2f} s of {self.elapsed:.2f} s"
        return ""


class Connection:
    """One keep-alive connection: shaking hands, idle, or with one request in flight."""

    __slots__ = ("arrival", "ready", "received", "socket")

    def __init__(self, door: Door, context: ssl.SSLContext | None) -> None:
        plain = socket.create_connection(("127.0.0.1", door.port), timeout=CONNECT_TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self.socket: socket.socket = plain
        if context is not None:
            self.socket = context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
        self.ready = context is None
        self.arrival = -1
        self.received = b""

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done on this side. Raises OSError."""
        if not self.ready and isinstance(self.socket, ssl.SSLSocket):
            try:
                self.socket.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self.ready = True
        return self.ready

    def receive(self) -> bytes | None:
        """The whole answer once it is there; None: not yet. Raises OSError, EOFError."""
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # TLS brought something of its own
        if not data:
            raise EOFError
        received = self.received + data
        end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received, 0, end + 2) if end >= 0 else None
        if length is None or len(received) < end + 4 + int(length[1]):
            self.received = received
            return None
        self.received = b""
        return received


class Generator:
    """Offers one load over connections of its own. endings: what follows the id, one after another."""

    def __init__(self, door: Door, endings: Sequence[bytes], load: Load) -> None:
        self.door, self.load = door, load
        self.context = door.context()
        self.due = schedule(load)
        self.tally = Tally()
        self._statuses: Counter[str] = Counter()
        self._endings = itertools.cycle(endings)
        self._prefix = BEFORE_ID + os.urandom(10).hex().encode()
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._queue: deque[int] = deque()
        self._next = self._ended = 0
        self._began = self._scanned = 0.0

    def connect(self) -> None:
        """Open every connection, one by one."""
        for _ in range(self.load.connections):
            connection = self._open()
            if connection is not None and not connection.ready:
                connection.socket.settimeout(CONNECT_TIMEOUT)
                connection.shake()
                connection.socket.setblocking(False)  # noqa: FBT003 - the socket's own signature
                self._idle.append(connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()

    def run(self) -> Tally:
        """Offer everything; ends when each request has come to an end of some kind."""
        generator, server = usage_of(os.getpid()), usage_of_all(self.door)
        self._began = self.tally.began = time.perf_counter()
        while self._ended < self.load.count:
            now = time.perf_counter() - self._began
            if now > self.load.longest:
                self._end_the_rest()
                break
            self._arrive(now)
            if now > self._scanned + SCAN_EVERY:
                self._scan(now)
            for descriptor, _ in self._wait():
                connection = self._connections.get(descriptor)
                if connection is not None:
                    self._turn(connection)
        self.tally.elapsed = time.perf_counter() - self._began
        self.tally.generator = usage_of(os.getpid()).since(generator)
        self.tally.server = usage_of_all(self.door).since(server)
        self.tally.statuses = dict(self._statuses)
        return self.tally

    def _wait(self) -> list[tuple[int, int]]:
        """Who is ready, by the time the next request is due at the latest."""
        if self._next >= self.load.count:
            return self._poll.poll(SCAN_EVERY)
        left = self.due[self._next] - (time.perf_counter() - self._began)
        if not self.load.spin:
            select.select([self._poll.fileno()], (), (), max(0.0, min(left, SCAN_EVERY)))
            return self._poll.poll(0)
        left -= WAKE_EARLY
        return self._poll.poll(min(left, SCAN_EVERY) if left > WAKE_EARLY else 0)

    def _arrive(self, now: float) -> None:
        """Send what is due, or put it into the queue."""
        while self._next < self.load.count and self.due[self._next] <= now:
            self._queue.append(self._next)
            self._next += 1
            self._dispatch(now)
            noticed = time.perf_counter() - self._began
            self.tally.lags.append(noticed - self.due[self._next - 1])

    def _dispatch(self, now: float) -> None:
        """Give the longest waiting requests to idle connections."""
        while self._queue and self._idle:
            arrival = self._queue.popleft()
            if now - self.due[arrival] > self.load.patience:
                self.tally.given_up += 1
                self._ended += 1
                continue
            self._send(self._idle.popleft(), arrival)

    def _send(self, connection: Connection, arrival: int) -> None:
        connection.arrival = arrival
        try:
            connection.socket.send(b"%b%012x%b" % (self._prefix, arrival, next(self._endings)))
        except OSError:
            self._lose(connection)

    def _turn(self, connection: Connection) -> None:
        try:
            if not connection.ready:
                if connection.shake():
                    self._free(connection)
                return
            answer = connection.receive()
        except (OSError, EOFError):
            self._lose(connection)
            return
        if answer is not None:
            self._finish(connection, answer)

    def _finish(self, connection: Connection, answer: bytes) -> None:
        arrival, connection.arrival = connection.arrival, -1
        if arrival < 0:  # nobody asked
            self._lose(connection)
            return
        self._judge(arrival, time.perf_counter() - self._began, answer)
        if _CLOSING.search(answer, 0, answer.find(b"\r\n\r\n") + 2):
            self._reopen(connection)
        else:
            self._free(connection)

    def _judge(self, arrival: int, now: float, answer: bytes) -> None:
        self._ended += 1
        due = self.due[arrival]
        status = answer[9:12].decode()
        self._statuses[status] += 1
        if status != "200":
            return
        if self.load.expected not in answer:
            self.tally.wrong += 1
        elif now - due > self.load.good_within:
            self.tally.late += 1
        else:
            self.tally.good.append(now - due)
            self.tally.due.append(due)

    def _free(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._queue:
            self._dispatch(time.perf_counter() - self._began)

    def _scan(self, now: float) -> None:
        """Give up what has run out of time; a connection that owes an answer is of no more use."""
        self._scanned = now
        limit = now - self.load.timeout
        for connection in list(self._connections.values()):
            if connection.arrival >= 0 and self.due[connection.arrival] < limit:
                self.tally.timeouts += 1
                self._ended += 1
                connection.arrival = -1
                self._reopen(connection)
        patience = min(self.load.patience, self.load.timeout)
        while self._queue and now - self.due[self._queue[0]] > patience:
            self._queue.popleft()
            self.tally.given_up += 1
            self._ended += 1

    def _lose(self, connection: Connection) -> None:
        """The server ended it: a failure if it owed an answer."""
        if connection.arrival >= 0:
            self.tally.broken += 1
            self._ended += 1
            connection.arrival = -1
        self._reopen(connection)

    def _reopen(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        self.tally.reconnected += 1
        self._open(idle=True)

    def _open(self, *, idle: bool = False) -> Connection | None:
        """A new connection with its handshake under way; none if nobody listens any more."""
        try:
            connection = Connection(self.door, self.context)
            self._connections[connection.socket.fileno()] = connection
            self._poll.register(connection.socket, select.EPOLLIN)
            if idle:
                connection.shake()
        except OSError:
            return None
        if connection.ready:
            self._idle.append(connection)
        return connection

    def _end_the_rest(self) -> None:
        self.tally.given_up += self.load.count - self._ended
        self._ended = self.load.count


def offer(door: Door, endings: Sequence[bytes], load: Load) -> Tally:
    """Offer one load from this process."""
    generator = Generator(door, endings, load)
    try:
        generator.connect()
        gc.freeze()
        gc.disable()  # a collection would be lag
        return generator.run()
    finally:
        gc.enable()
        gc.unfreeze()
        generator.close()


def _serve(pipe: Pipe, door: Door, endings: Sequence[bytes]) -> None:
    """The generator's own process: loads come in, tallies go out, until None comes."""
    take_second_core()
    pipe.send("ready")
    while (load := pipe.recv()) is not None:
        pipe.send(offer(door, endings, load))


class Offering:
    """A generator in a process of its own on the second core; its loads run while this process does other things."""

    def __init__(self, door: Door, endings: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, door, endings), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        self._receive()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            self._pipe.send(None)
        self._process.join(5)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def begin(self, load: Load) -> None:
        """Start a load; `finish` waits for it."""
        self._pipe.send(load)

    def finish(self) -> Tally:
        """What came of the load that was begun."""
        tally = self._receive()
        assert isinstance(tally, Tally)
        return tally

    def offer(self, load: Load) -> Tally:
        """Start and wait."""
        self.begin(load)
        return self.finish()

    def _receive(self) -> object:
        assert self._pipe.poll(RUN_TIMEOUT), "the generator is silent"
        return self._pipe.recv()
