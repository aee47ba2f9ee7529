"""Callers that never rest: keep-alive connections over mutual TLS, each sending as soon as it was answered.

A request has *failed* when it was sent and neither answered nor, without a byte of an answer, on a connection that
the server ended in order (close_notify). Such a one was not read, so its sender asks again on another connection.
"""

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.nodes import WITHIN

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Parted(Exception):
    """The server ended the connection in order, before a byte of an answer."""


class Load:
    """What the callers have seen. answered: by the pid of the worker. turned_away: connections before any request."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.answered: Counter[int] = Counter()
        self.failed: list[str] = []
        self.parted = self.turned_away = 0
        self._port = port
        self._context = context
        self._counting = threading.Lock()
        self._over = threading.Event()

    @property
    def total(self) -> int:
        return sum(self.answered.values())

    def stop(self) -> None:
        self._over.set()

    def call(self) -> None:
        """One caller, until stopped."""
        while not self._over.is_set():
            try:
                plain = socket.create_connection(("127.0.0.1", self._port), timeout=WITHIN)
            except OSError:
                self._turned_away()
                continue
            with plain:
                try:
                    tls = self._context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
                except OSError:
                    self._turned_away()
                    continue
                with tls:
                    self._ask_on(tls)

    def _turned_away(self) -> None:
        with self._counting:
            self.turned_away += 1
        self._over.wait(0.01)

    def _ask_on(self, tls: ssl.SSLSocket) -> None:
        try:
            while not self._over.is_set():
                head, body = self._exchange(tls)
                assert head.startswith(b"HTTP/1.1 200 "), head
                with self._counting:
                    self.answered[int(body)] += 1
                if b"connection: close" in head.lower():
                    return
        except Parted:
            with self._counting:
                self.parted += 1
        except (OSError, AssertionError, ValueError) as error:
            with self._counting:
                self.failed.append(repr(error))

    def _exchange(self, tls: ssl.SSLSocket) -> tuple[bytes, bytes]:
        with suppress(BrokenPipeError, ConnectionResetError):  # what was said before, if anything, is still to be read
            tls.sendall(REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = tls.recv(65536)
            if not piece:
                if answer:
                    raise ValueError("cut off in the middle of an answer")
                raise Parted
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < length:
            if not (piece := tls.recv(65536)):
                raise ValueError("cut off in the middle of an answer")
            body += piece
        return head, body


@contextmanager
def under_load(port: int, context: ssl.SSLContext, callers: int = 8) -> Iterator[Load]:
    """Callers that hammer until the end of the block."""
    load = Load(port, context)
    threads = [threading.Thread(target=load.call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join()
