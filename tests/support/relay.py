"""A TCP relay between two parties that can be made to fail as networks do: refuse, hold everything back, cut off.

`hold` is a black hole that ends: nothing passes, connections are taken and never answered, and what was sent meanwhile
arrives afterwards, as TCP sends it again. `refuse` cuts every connection and listens no more. `cut_after` lets some
more bytes through and then cuts, most likely in the middle of something.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

TAKE = 65_536
LOOK = 0.05  # seconds between looks whether it is over

Ends = tuple[socket.socket, ...]  # of a connection: near and far, or near alone until it has been passed on


class Relay:
    """Listens on loopback, from its making on; `upstream` may be changed at any time, for connections to come."""

    def __init__(self, upstream: Path | int) -> None:
        self.upstream = upstream
        self._flowing = threading.Event()
        self._flowing.set()
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._ends: set[Ends] = set()
        self._left: int | None = None  # bytes until the cut
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def flow(self) -> None:
        """Let everything through (again)."""
        self._left = None
        if self._listener is None:
            self._listen()
        self._flowing.set()

    def hold(self) -> None:
        """Let nothing through, take connections and say nothing."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Cut every connection, refuse new ones."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.close()
        self.cut()

    def cut_after(self, count: int) -> None:
        """Cut every connection once so many more bytes have passed, and refuse new ones."""
        self._left = count

    def cut(self) -> None:
        """Cut every connection; new ones are taken."""
        with self._guard:
            cut, self._ends = self._ends, set()
        for ends in cut:
            _cut(*ends)

    def close(self) -> None:
        self._over.set()
        self._flowing.set()
        self.refuse()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(self._accept, listener)

    def _spawn(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            with contextlib.suppress(OSError, ValueError):
                if select.select([listener], (), (), LOOK)[0]:
                    near = listener.accept()[0]
                    with self._guard:
                        self._ends.add((near,))
                    self._spawn(self._connect, near)

    def _connect(self, near: socket.socket) -> None:
        """Once things flow, and where it was not cut before."""
        self._flowing.wait()
        try:
            far = _dial(self.upstream)
        except OSError:
            self._forget((near,))
            return
        with self._guard:
            waited = (near,) in self._ends
            self._ends -= {(near,)}
            self._ends |= {(near, far)} if waited else set()
        if not waited:
            _cut(near, far)
            return
        self._spawn(self._pump, far, near, (near, far))
        self._pump(near, far, (near, far))

    def _pump(self, source: socket.socket, sink: socket.socket, ends: Ends) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self._over.is_set():
                self._flowing.wait()
                if not select.select([source], (), (), LOOK)[0]:
                    continue
                data = source.recv(TAKE)
                self._flowing.wait()
                if not self._pass_on(data, sink):
                    break
        self._forget(ends)

    def _forget(self, ends: Ends) -> None:
        with self._guard:
            self._ends.discard(ends)
        _cut(*ends)

    def _pass_on(self, data: bytes, sink: socket.socket) -> bool:
        if not data:
            return False
        left = self._left
        if left is None:
            sink.sendall(data)
            return True
        self._left = max(0, left - len(data))
        sink.sendall(data[:left])
        if self._left == 0:
            self.refuse()
        return True


def _dial(upstream: Path | int) -> socket.socket:
    if isinstance(upstream, int):
        return socket.create_connection(("127.0.0.1", upstream), timeout=5)
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(upstream))
    except OSError:
        found.close()
        raise
    return found


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
