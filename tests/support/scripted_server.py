"""A server whose every answer is scripted, on threads: for clients that must bear stalls, refusals and hang-ups."""

import contextlib
import socket
import threading
from collections.abc import Callable

from engine.listener.tls import server_context
from tests.support.mutual_tls import Authority

Script = Callable[[int, bytes], bytes | None]
WITHIN = 20.0


class Scripted:
    """A server whose every answer is scripted: by its number, over all connections. None = hang up."""

    def __init__(self, script: Script, authority: Authority | None = None) -> None:
        self._script = script
        self._context = server_context(*authority.issue("scripted"), authority.file) if authority else None
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listening.getsockname()[1]
        self.requests: list[bytes] = []
        self._turn = threading.Lock()  # a stall holds up everybody, as in a single-threaded server
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(connected)
            thread = threading.Thread(target=self._converse, args=(connected,))
            self._threads.append(thread)
            thread.start()

    def _converse(self, connected: socket.socket) -> None:
        try:
            wire = self._context.wrap_socket(connected, server_side=True) if self._context else connected
            with wire:
                while request := _whole_request(wire):
                    with self._turn:
                        self.requests.append(request)
                        said = self._script(len(self.requests), request)
                    if said is None:
                        return
                    wire.sendall(said)
        except OSError:
            pass

    def stop_listening(self) -> None:
        """The thread that accepts wakes up and ends."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.stop_listening()
        for connected in self._sockets:
            with contextlib.suppress(OSError):  # its thread was done with it
                connected.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WITHIN)
            assert not thread.is_alive()
        self._listening.close()


def _whole_request(wire: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        data = wire.recv(65536)
        if not data:
            return b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        body += wire.recv(65536)
    return head + b"\r\n\r\n" + body
