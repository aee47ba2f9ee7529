"""Bytes over one accepted socket, plain.

The socket is driven through `trio.lowlevel` instead of trio's own socket: one wait for each arrival and none for
a write that fits, where trio's stream would pass a checkpoint (3.6 µs) in both directions of every request.
"""

import contextlib
import socket
from typing import Final, Protocol

import trio

from engine.errors import Fault, Kind

_CHUNK: Final = 32_768


class PeerGone(Fault):
    """The other side reset or broke the connection; there is nobody left to tell."""

    kind = Kind.UNAVAILABLE


class Wire(Protocol):
    """What `serve` needs of a connection; `PlainWire` and `tls.TlsWire` are the two there are."""

    async def receive(self) -> bytes:
        """Wait for bytes; b"" = the peer has ended. Raises PeerGone."""

    def receive_nowait(self) -> bytes:
        """What is there already; b"" = nothing. Raises PeerGone."""

    def send_nowait(self, data: bytes) -> bool:
        """Take all of data; True when it has gone out, False when `flush` must be awaited. Raises PeerGone."""

    async def flush(self) -> None:
        """Wait until everything taken has gone out. Raises PeerGone."""

    def end(self) -> None:
        """Say goodbye as far as that needs no waiting; nothing can be sent afterwards."""


class PlainWire:
    """A `Wire` without encryption. connected: a non-blocking stream socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._waiting = b""

    async def receive(self) -> bytes:
        """Wait for bytes; b"" = the peer has ended. Raises PeerGone."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise PeerGone("the connection broke", detail=str(error)) from error

    def receive_nowait(self) -> bytes:
        """What is there already; b"" = nothing. Raises PeerGone."""
        try:
            return self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error

    def send_nowait(self, data: bytes) -> bool:
        """Take all of data; True when it has gone out, False when `flush` must be awaited. Raises PeerGone."""
        if self._waiting:
            self._waiting += data
            return False
        sent = self._try(data)
        if sent == len(data):
            return True
        self._waiting = data[sent:]
        return False

    async def flush(self) -> None:
        """Wait until everything taken has gone out. Raises PeerGone."""
        while self._waiting:
            await trio.lowlevel.wait_writable(self._socket)
            self._waiting = self._waiting[self._try(self._waiting) :]

    def end(self) -> None:
        """Half-close; the peer sees the end of our bytes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    async def discard(self, limit: int) -> None:
        """Read and forget until the peer ends, breaks or has sent more than limit bytes."""
        with contextlib.suppress(PeerGone):
            while limit > 0 and (data := await self.receive()):
                limit -= len(data)

    def _try(self, data: bytes) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
