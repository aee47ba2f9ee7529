"""One keep-alive connection, mostly over mutual TLS, on trio, small enough to make hundreds of calls a second."""

import ssl

import trio

from tests.chaos.links import LOOPBACK

LARGEST = 1 << 20


class NoConnection(Exception):
    """Nobody was reached: nothing was sent."""


class BrokenOff(Exception):
    """The connection ended before the answer was whole. unheard: without a byte of it."""

    def __init__(self, *, unheard: bool) -> None:
        super().__init__("without an answer" if unheard else "in the middle of an answer")
        self.unheard = unheard


class Reply:
    """An answer that was read whole."""

    __slots__ = ("body", "closing", "status")

    def __init__(self, status: int, body: bytes, *, closing: bool) -> None:
        self.status, self.body, self.closing = status, body, closing


class Caller:
    """A connection. Whoever gives up on a call in the middle of it ends the connection with `abandon`."""

    def __init__(self, stream: trio.abc.Stream, host: str = "localhost") -> None:
        self._stream, self._host = stream, host
        self.used = False

    @classmethod
    async def reach(cls, port: int, context: ssl.SSLContext) -> "Caller":
        """Connect and shake hands. Raises NoConnection."""
        try:
            plain = await trio.open_tcp_stream(LOOPBACK, port)
        except OSError as error:
            raise NoConnection from error
        stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError) as error:
            await trio.aclose_forcefully(plain)
            raise NoConnection from error
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return cls(stream)

    @classmethod
    async def reach_plain(cls, port: int) -> "Caller":
        """Connect without TLS. Raises NoConnection."""
        try:
            return cls(await trio.open_tcp_stream(LOOPBACK, port), f"{LOOPBACK}:{port}")
        except OSError as error:
            raise NoConnection from error

    async def call(self, method: str, path: str, body: bytes, *headers: tuple[str, str]) -> Reply:
        """Send a request, read its answer. Raises BrokenOff."""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        request = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        received = b""
        try:
            await self._stream.send_all(request.encode() + body)
            while (reply := _read(received)) is None:
                data = await self._stream.receive_some()
                if not data or len(received) > LARGEST:
                    raise BrokenOff(unheard=not received)
                received += data
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
            raise BrokenOff(unheard=not received) from error
        self.used = True
        return reply

    async def abandon(self) -> None:
        """Close it without ceremony."""
        await trio.aclose_forcefully(self._stream)


def _read(received: bytes) -> Reply | None:
    """The answer, once it is whole. Only answers with a length: nobody here chunks."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    if len(body) < length:
        return None
    return Reply(int(head[9:12]), body, closing=b"connection: close" in lines)
