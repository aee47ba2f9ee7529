"""HTTP/1.1 over mutual TLS from a guard to the nodes: a pool of connections for each, on trio and asyncio alike.

Our own, because a call is what a share costs: httpx2 takes 560 us of CPU for one over mutual TLS. TLS is pumped through
`ssl.MemoryBIO`, so that a call is one write and, mostly, one read. A connection whose call was cancelled, or that holds
a byte too many, is closed and never used again. A kept one that turns out to be dead before a byte of the answer has
come is replaced by a fresh one within the same attempt: nodes close idle connections.
"""

import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httptools

from engine.config import BadConfig
from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.retry import CONNECT

_TAKE: Final = 65_536
_MAX_HEAD: Final = 16_384  # bytes of a reply's status line and fields, more or less
_IDLE: Final = 60.0  # seconds; nodes keep idle connections for 75
_JUST_NOW: Final = 1.0


def client_tls(ca_file: Path, certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """Our certificate, and whose servers we trust: names are checked, TLS 1.2 and 1.3. Raises BadConfig."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"service: {ca_file}, {certificate_file}, {key_file} cannot be read: {error}") from error
    return context


class _Parser:
    """One reply after another. `reply` is set once one is whole."""

    __slots__ = ("_body", "_headers", "_parser", "_size", "fed", "is_last", "max_body", "reply")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.reply: Reply | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        self.fed = 0  # bytes of this reply
        self.max_body = 0
        self.is_last = False  # the connection ends with this reply, or is not to be trusted any more

    def expect(self, max_body: int) -> None:
        self.reply = None
        self._headers = {}
        self._body = []
        self._size = self.fed = 0
        self.max_body = max_body

    def feed(self, data: bytes) -> None:
        """Raises CallFailed for what is no reply, or is too large."""
        if self.reply is not None:
            self.is_last = True
            return
        self.fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise CallFailed(Failure.NO_ANSWER, f"not HTTP: {error}") from error
        if self._size > self.max_body or self.fed > self.max_body + _MAX_HEAD:
            raise CallFailed(Failure.NO_ANSWER, "the reply is too large")

    def on_message_begin(self) -> None:
        if self.reply is not None:
            self.is_last = True  # a second reply that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.reply is not None:
            self._headers = {}
            return  # 100 Continue and the like: nobody asked for them, and the reply is still to come
        headers = self._headers
        self.is_last = self.is_last or not self._parser.should_keep_alive()
        self.reply = Reply(
            status,
            headers.get(b"content-type", b"").partition(b";")[0].strip().lower(),
            b"".join(self._body),
            headers.get(b"x-request-id", b""),
            headers.get(b"retry-after", b""),
        )


class _Connection:
    """One connection, used by one call at a time.

    On a bare socket, which waits for nothing but the network: the streams of event loops give up a turn for each write.
    """

    __slots__ = ("_incoming", "_outgoing", "_parser", "_socket", "_tls", "idle_since", "is_used")

    def __init__(self, connected: socket.socket, tls: ssl.SSLContext, host: str) -> None:
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._parser = _Parser()
        self.is_used = False  # has carried a whole call
        self.idle_since = 0.0

    async def handshake(self) -> None:
        """Raises CallFailed."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take()
            except ssl.SSLError as error:
                with contextlib.suppress(CallFailed):
                    await self._flush()  # our alert
                raise CallFailed(Failure.TLS, str(error)) from error
            else:
                await self._flush()
                return

    async def exchange(self, request: bytes, max_body: int) -> Reply:
        """One call. Raises CallFailed; then, and after a reply that `is_last`, the connection is of no more use."""
        parser = self._parser
        parser.expect(max_body)
        try:
            self._tls.write(request)
            with contextlib.suppress(CallFailed):  # what the node said before it hung up is still to be read
                await self._flush()
            while parser.reply is None:
                await self._take()
                self._decrypt()
        except ssl.SSLError as error:
            raise CallFailed(Failure.TLS, str(error)) from error
        self.is_used = True
        return parser.reply

    @property
    def is_spent(self) -> bool:
        """Whether it may not carry another call."""
        return self._parser.is_last or self._incoming.pending > 0

    @property
    def is_stale(self) -> bool:
        """Whether it was lost before a byte of the answer had come, after it had stood idle."""
        return self.is_used and self._parser.fed == 0

    def close(self) -> None:
        """Say goodbye where that takes no time, and close."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            if self._outgoing.pending:
                self._socket.send(self._outgoing.read())
        self._socket.close()

    def _decrypt(self) -> None:
        try:
            while True:
                data = self._tls.read(_TAKE)
                if not data:
                    raise CallFailed(Failure.RESET, "the node ended the connection")
                self._parser.feed(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError as error:
            if self._parser.reply is None:
                raise CallFailed(Failure.RESET, "the node ended the connection") from error
            self._parser.is_last = True

    async def _take(self) -> None:
        """What has arrived; waits for it."""
        await anyio.wait_readable(self._socket)
        try:
            data = self._socket.recv(_TAKE)
        except BlockingIOError:
            return
        except OSError as error:
            raise CallFailed(Failure.RESET, "the connection broke") from error
        if not data:
            raise CallFailed(Failure.RESET, "the node ended the connection")
        self._incoming.write(data)

    async def _flush(self) -> None:
        left = memoryview(self._outgoing.read())
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise CallFailed(Failure.RESET, "the connection broke") from error


async def _connect(host: str, port: int) -> socket.socket:
    """TCP to the first of the host's addresses that takes it. Raises OSError; the caller bounds the time."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError | None = None
    for family, _, _, _, address in found:
        try:
            # An address that swallows everything must leave time for the others.
            with anyio.fail_after(CONNECT / len(found)):
                return await _connect_to(family, address)
        except TimeoutError as error:
            failed = error
        except OSError as error:
            failed = error
    raise failed or OSError("the host has no address")


async def _connect_to(family: int, address: tuple[Any, ...]) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(0)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            connected.connect(address)
        await anyio.wait_writable(connected)
        if code := connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        connected.close()
        raise
    return connected


class _Pool:
    """The connections to one node. The newest idle one goes first, so that those not needed grow old."""

    def __init__(self, origin: str, tls: Callable[[], ssl.SSLContext], size: int) -> None:
        parts = urlsplit(origin)
        self.host, self.port = parts.hostname or "", parts.port or 443
        self._tls = tls
        self._size = size
        self._idle: deque[_Connection] = deque()
        self._open = 0
        self._is_closed = False
        self._waiting: deque[anyio.Event] = deque()
        self._host_field = parts.netloc.encode()
        self._heads: dict[tuple[bytes, bytes, bytes, bytes], bytes] = {}

    def render(self, call: Call) -> bytes:
        """The request's bytes. What stands before its name is the same each time."""
        key = (call.method, call.path, call.accept, call.content_type)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = (
                b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept: %b\r\nContent-Type: %b\r\nX-Request-ID: "
                % (call.method, call.path, self._host_field, call.accept, call.content_type)
            )
        return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, call.request_id, len(call.body), call.body)

    async def call(self, call: Call) -> Reply:
        await self._enter()
        try:
            return await self._carry(self.render(call), call.max_body)
        finally:
            self._leave()

    async def _carry(self, request: bytes, max_body: int) -> Reply:
        while True:
            connection = self._kept() or await self._dial()
            reply: Reply | None = None
            try:
                reply = await connection.exchange(request, max_body)
            except CallFailed:
                if not connection.is_stale:
                    raise
                self._drop_idle(_JUST_NOW)  # most likely it was not the only one
            finally:
                if reply is None or connection.is_spent or self._is_closed:
                    connection.close()
                else:
                    connection.idle_since = anyio.current_time()
                    self._idle.append(connection)
            if reply is not None:
                return reply

    def _kept(self) -> _Connection | None:
        if self._idle and anyio.current_time() - self._idle[-1].idle_since < _IDLE:
            return self._idle.pop()
        return None

    async def _dial(self) -> _Connection:
        self._drop_idle(_IDLE)
        connected: socket.socket | None = None
        connection: _Connection | None = None
        try:
            with anyio.fail_after(CONNECT):
                connected = await _connect(self.host, self.port)
                made = _Connection(connected, self._tls(), self.host)
                await made.handshake()
                connection = made
        except TimeoutError as error:
            raise CallFailed(Failure.TIMEOUT, "no connection within a second") from error
        except OSError as error:
            raise CallFailed(Failure.CONNECT, str(error)) from error
        finally:
            if connected is not None and connection is None:
                connected.close()
        return connection

    def _drop_idle(self, older_than: float) -> None:
        """Close those that have stood idle for longer, seconds."""
        before = anyio.current_time() - older_than
        while self._idle and self._idle[0].idle_since <= before:
            self._idle.popleft().close()

    async def _enter(self) -> None:
        """Wait for a place. Raises CallFailed when there is none for as long as a connection may take."""
        if self._open < self._size and not self._waiting:
            self._open += 1
            return
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            with anyio.fail_after(CONNECT):
                await turn.wait()
        except TimeoutError as error:
            if turn.is_set():
                return
            raise CallFailed(Failure.BUSY, "all connections are in use") from error
        except BaseException:
            if turn.is_set():
                self._leave()  # the place that was handed over in the same moment
            raise
        finally:
            if not turn.is_set():
                self._waiting.remove(turn)

    def _leave(self) -> None:
        """Hand the place over, or give it back."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._open -= 1

    def close(self) -> None:
        """Close what stands idle; calls under way are their callers' to cancel, and keep nothing open when they end."""
        self._is_closed = True
        self._drop_idle(0.0)


class Http1Transport:
    """`engine.guard.calls.Transport` over real sockets. size: connections to each node."""

    def __init__(self, tls: ssl.SSLContext, size: int) -> None:
        self._tls = tls
        self._size = size
        self._pools: dict[str, _Pool] = {}
        self._is_closed = False

    def renew(self, tls: ssl.SSLContext) -> None:
        """For connections to come: the certificate has been renewed."""
        self._tls = tls

    async def call(self, address: str, call: Call) -> Reply:
        """See Transport."""
        if self._is_closed:
            raise CallFailed(Failure.BUSY, "the client is closed")
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = _Pool(address, lambda: self._tls, self._size)
        return await pool.call(call)

    async def aclose(self) -> None:
        """See Transport."""
        self._is_closed = True
        for pool in self._pools.values():
            pool.close()
