"""A TCP link that can be broken in every way a network breaks: between two processes, byte for byte, on loopback.

`node-1 > redis` is such a link: the node is told its port in place of the server's. It is cut from outside, while
both ends believe in it.
"""

import enum
import socket
import struct
from collections.abc import Callable

import trio

from tests.chaos.plan import Fault, What

LOOPBACK = "127.0.0.1"
CHUNK = 65_536
BACKLOG = 256
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST
MOST_CUT_AFTER = 40_000  # bytes until a connection is cut off: a handshake, or a handshake and some answers
LONGEST_DELAY = 0.6  # seconds each way; with the way back still inside a caller's patience


class Way(enum.Enum):
    """Up from whoever connected, and down to it."""

    UP = enum.auto()
    DOWN = enum.auto()


class Broken(Exception):
    """One connection is over."""


class Connection:
    """A pair of sockets: of whoever connected, and of whom it wanted."""

    def __init__(self, near: trio.socket.SocketType) -> None:
        self.sockets = [near]
        self.left: int | None = None  # bytes until it is cut off; None = it is not

    def reset(self) -> None:
        """End both sides at once, as if a machine had gone."""
        for one in self.sockets:
            if one.fileno() >= 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.close()


class Link:
    """Listens on `port`, and passes on to `target` what comes. draw: numbers from [0, 1)."""

    def __init__(self, name: str, port: int, target: int, draw: Callable[[], float]) -> None:
        self.name, self.port, self.target = name, port, target
        self._draw = draw
        self.doors: dict[What, int] = {}  # ports of what answers in the target's place, see `tests.chaos.doors`
        self._what: What | None = None
        self._delay = 0.0
        self._changed = trio.Event()
        self._listening: trio.socket.SocketType | None = None
        self._connections: set[Connection] = set()

    def apply(self, fault: Fault) -> None:
        """Break it. Only one fault at a time: the newest counts."""
        self._what = fault.what
        self._delay = LONGEST_DELAY * (0.05 + 0.95 * fault.share)
        for connection in self._connections:
            connection.left = self._budget()
        if fault.what is What.REFUSE:
            self._stop_listening()
            self.reset()
        if fault.what in self.doors:
            self.reset()
        self._announce()

    def restore(self) -> None:
        """Mend it; what waited goes on its way."""
        if self._what in self.doors:
            self.reset()
        self._what = None
        for connection in self._connections:
            connection.left = None
        self._announce()

    def reset(self) -> None:
        """End every connection that is open."""
        for connection in list(self._connections):
            connection.reset()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; ready when it listens."""
        self._listen()
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await self._accept(nursery)
        finally:
            self._stop_listening()
            self.reset()

    async def _accept(self, nursery: trio.Nursery) -> None:
        if self._listening is None:
            if self._what is not What.REFUSE:
                self._listen()
            else:
                await self._changed.wait()
            return
        try:
            near, _ = await self._listening.accept()
        except (OSError, trio.ClosedResourceError):
            return  # it was closed under us, or whoever came has gone
        nursery.start_soon(self._carry, near)

    async def _carry(self, near: trio.socket.SocketType) -> None:
        connection = Connection(near)
        connection.left = self._budget()
        self._connections.add(connection)
        try:
            far = trio.socket.socket()
            connection.sockets.append(far)
            await self._passable(Way.UP)
            await far.connect((LOOPBACK, self._target()))
            for one in connection.sockets:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, connection, near, far, Way.UP)
                nursery.start_soon(self._pump, connection, far, near, Way.DOWN)
        except* (OSError, Broken, trio.ClosedResourceError):
            connection.reset()
        finally:
            self._connections.discard(connection)
            for one in connection.sockets:
                one.close()

    async def _pump(
        self,
        connection: Connection,
        source: trio.socket.SocketType,
        sink: trio.socket.SocketType,
        way: Way,
    ) -> None:
        while data := await source.recv(CHUNK):
            await self._passable(way)
            if self._what is What.DELAY:
                await trio.sleep(self._delay)
            if connection.left is not None:
                data = data[: connection.left]
                connection.left -= len(data)
            await _send(sink, data)
            if connection.left == 0:
                raise Broken
        await self._passable(way)
        sink.shutdown(socket.SHUT_WR)

    async def _passable(self, way: Way) -> None:
        """Wait while nothing passes this way."""
        while self._what is What.BLACK_HOLE or (self._what is What.DEAFEN and way is Way.DOWN):
            await self._changed.wait()

    def _target(self) -> int:
        return self.target if self._what is None else self.doors.get(self._what, self.target)

    def _budget(self) -> int | None:
        return int(MOST_CUT_AFTER * self._draw()) if self._what is What.CUT else None

    def _listen(self) -> None:
        listening = trio.socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening._sock.bind((LOOPBACK, self.port))  # type: ignore[attr-defined]  # trio's own bind looks names up
        listening.listen(BACKLOG)
        self._listening = listening

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _send(sink: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await sink.send(data) :]
