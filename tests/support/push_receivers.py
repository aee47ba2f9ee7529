"""Receivers of pushes on real mutual TLS, which answer as they are told. One server stands for many."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import h11
import msgspec
import trio

Answer = Callable[[str, bytes], Awaitable[bytes]]  # (path, content) -> raw bytes of the answer

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


class Receiving(msgspec.Struct):
    """A server that runs. accepted: connections so far. requests: heads as they came, with their content."""

    port: int
    accepted: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = []


async def accept(_path: str, _content: bytes) -> bytes:
    """Takes everything."""
    await trio.lowlevel.checkpoint()
    return ACCEPTED


@asynccontextmanager
async def receiving(
    context: ssl.SSLContext, answer: Answer = accept, *, repeats: bool = False
) -> AsyncIterator[Receiving]:
    """On a free port of 127.0.0.1. An answer of no bytes ends the connection.

    repeats: says every answer twice, in two TLS records that go out in one piece.
    """
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    bound = listeners[0].transport_listener
    assert isinstance(bound, trio.SocketListener)
    running = Receiving(bound.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, partial(_serve, running, answer, 1 + repeats), listeners))
        yield running
        nursery.cancel_scope.cancel()


async def _serve(running: Receiving, answer: Answer, times: int, stream: trio.SSLStream[trio.SocketStream]) -> None:
    running.accepted += 1
    try:
        await _converse(running, answer, times, stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, h11.RemoteProtocolError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _converse(running: Receiving, answer: Answer, times: int, stream: trio.SSLStream[trio.SocketStream]) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        request, content = await _request(connection, stream)
        if request is None:
            return
        path = request.target.decode()
        running.requests.append((path, {n.decode(): v.decode() for n, v in request.headers}, content))
        raw = await answer(path, content)
        if not raw:
            return
        for _ in range(times - 1):
            stream._ssl_object.write(raw)  # a record by itself, sent together with the next
        await stream.send_all(raw)
        if b"connection: close" in raw.lower():
            return
        connection = h11.Connection(h11.SERVER)


async def _request(
    connection: h11.Connection, stream: trio.SSLStream[trio.SocketStream]
) -> tuple[h11.Request | None, bytes]:
    request: h11.Request | None = None
    content = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65_536)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            content += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return request, content
        else:
            return None, b""
