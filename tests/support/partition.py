"""A way between two processes that a test can cut: bytes are passed on, or held up without a word, as in a partition.

Connections stay open while the way is cut, so neither side is told; what was held up goes on when it is mended.
"""

import contextlib
import selectors
import socket
import threading
from pathlib import Path
from typing import Final

CHUNK: Final = 65_536
LOOK_EVERY: Final = 0.05  # seconds between looks whether the way was cut or mended


class CutRelay:
    """Listens on `port` of loopback. target: a port of loopback, or the path of a unix socket. Close it at the end."""

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._closing.set()
        self._open.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type] - a callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(LOOK_EVERY)
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._start(self._pass_on, near)

    def _pass_on(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            self._wait_open()
            with self._dial() as far, selectors.DefaultSelector() as ready:
                ready.register(near, selectors.EVENT_READ, far)
                ready.register(far, selectors.EVENT_READ, near)
                while not self._closing.is_set():
                    for key, _ in ready.select(LOOK_EVERY):
                        self._wait_open()
                        data = key.fileobj.recv(CHUNK)  # type: ignore[union-attr] - sockets were registered
                        if not data:
                            return
                        self._wait_open()
                        key.data.sendall(data)

    def _wait_open(self) -> None:
        while not self._open.wait(LOOK_EVERY) and not self._closing.is_set():
            pass

    def _dial(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        dialled = socket.socket(socket.AF_UNIX)
        dialled.connect(str(self._target))
        return dialled
