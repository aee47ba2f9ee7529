"""One mTLS connection to a receiver: TLS on `ssl.MemoryBIO` over a trio socket, one request at a time.

An own pump, because a push costs little but this: trio's SSLStream would take a third more. Whoever is cancelled in the
middle closes the connection; nothing is shielded, nothing can be lost but the socket itself, and that is closed.
"""

import hashlib
import ssl
from typing import Final

import trio
from trio.socket import SocketType

from engine.consent.records import Thumbprint
from engine.errors import Fault, Kind
from engine.pusher.replies import BrokenReply, ReplyReader
from engine.pusher.schedule import Trouble

_PIECE: Final = 65_536


class Unreached(Fault):
    """No answer came. trouble: why."""

    kind = Kind.UNAVAILABLE

    def __init__(self, trouble: Trouble, *, detail: str = "") -> None:
        super().__init__(f"the receiver was not reached: {trouble.value}", detail=detail)
        self.trouble = trouble


class Connection:
    """After its handshake. idle_since: trio's clock."""

    __slots__ = ("_incoming", "_outgoing", "_socket", "_tls", "context", "host", "idle_since", "port", "thumbprint")

    def __init__(self, connected: SocketType, context: ssl.SSLContext, host: str, port: int) -> None:
        self._socket = connected
        self.host, self.port = host, port
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.context = context
        self.thumbprint = Thumbprint(b"")
        self.idle_since = 0.0

    async def handshake(self) -> None:
        """Prove both sides. Raises Unreached."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._flush()
                    if not await self._fill():
                        raise Unreached(Trouble.TLS, detail="the connection ended in the handshake") from None
            await self._flush()
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise Unreached(Trouble.TLS, detail=str(error)) from error
        except OSError as error:
            raise Unreached(Trouble.TLS, detail=repr(error)) from error
        self.thumbprint = Thumbprint(hashlib.sha256(self._tls.getpeercert(binary_form=True) or b"").digest())

    async def exchange(self, request: bytes, reader: ReplyReader) -> None:
        """Send a request and read its answer into the reader, until it is whole. Raises Unreached.

        An answer whose head has come is whole when the connection ends.
        """
        try:
            self._tls.write(request)
            await self._flush()
            while not reader.is_whole:
                if not await self._read_some(reader):
                    return
        except OSError as error:
            # In TLS 1.3 a server says after our handshake that it does not take our certificate.
            trouble = Trouble.TLS if isinstance(error, ssl.SSLError) else Trouble.BROKEN
            if not reader.status:
                raise Unreached(trouble, detail=repr(error)) from error
        except BrokenReply as fault:
            raise Unreached(Trouble.BROKEN, detail=fault.detail or fault.text) from fault

    async def _read_some(self, reader: ReplyReader) -> bool:
        """False: nothing more will come."""
        try:
            data = self._tls.read(_PIECE)
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                await self._flush()  # an answer to the server's key update
            if await self._fill():
                return True
            data = b""
        except ssl.SSLZeroReturnError:
            data = b""
        if data:
            reader.feed(data)
        elif not reader.status:
            raise Unreached(Trouble.BROKEN, detail="the connection ended before an answer")
        return bool(data)

    async def _flush(self) -> None:
        data = self._outgoing.read()
        while data:
            sent = await self._socket.send(data)
            data = data[sent:]

    async def _fill(self) -> bool:
        data = await self._socket.recv(_PIECE)
        if data:
            self._incoming.write(data)
        return bool(data)

    def is_quiet(self) -> bool:
        """Whether an idle connection can be used: the server has neither closed it nor said anything.

        What it said together with its last answer has been received, and is not read yet.
        """
        if self._socket.is_readable():
            return False
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            return False
        return False

    def close(self) -> None:
        """At once."""
        self._socket.close()


async def connect(
    address: tuple[int, tuple[object, ...]], context: ssl.SSLContext, host: str, port: int, reached: trio.Event
) -> Connection:
    """To one address, as (family, socket address); the server must be `host`. Raises Unreached.

    reached: set once TCP stands, before the handshake.
    """
    family, place = address
    connected = _socket(family)
    done = False
    try:
        try:
            await connected.connect(place)
        except OSError as error:
            raise Unreached(Trouble.CONNECT, detail=repr(error)) from error
        reached.set()
        connection = Connection(connected, context, host, port)
        await connection.handshake()
        done = True
        return connection
    finally:
        if not done:
            connected.close()


def _socket(family: int) -> SocketType:
    """There may be none: no descriptor is left, or the machine knows no addresses of this family. Raises Unreached."""
    try:
        opened = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    except OSError as error:
        raise Unreached(Trouble.CONNECT, detail=repr(error)) from error
    opened.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
    return opened
