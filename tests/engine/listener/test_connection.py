"""Connections at their limits: no deadline is lost, none strikes those who keep theirs, nothing spins."""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.clock import Seconds
from engine.listener.connection import Connection, State
from engine.listener.http1 import Request, Response
from engine.listener.serve import Limits, Peer, Server, serve
from engine.telemetry.host import SystemClock
from tests.support.mutual_tls import Authority, Dialler, RawClient, until

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"x" * 4_000_000  # more than the kernel takes for a client that does not read
MIDDLING = b"x" * 250_000  # more than it takes where it is narrow, but no reason to answer nothing else before
Start = Callable[..., Awaitable[tuple[Server, RawClient]]]
Handler = Callable[[Request, Peer], Response | Awaitable[Response]]


@pytest.fixture
async def start(
    nursery: trio.Nursery, dialler: Dialler, authority: Authority, client_files: tuple[Path, Path]
) -> Start:
    async def run(
        handler: Handler, *, tls: bool = False, limits: Limits | None = None, narrow: bool = False
    ) -> tuple[Server, RawClient]:
        listening = socket.create_server(("127.0.0.1", 0))
        if narrow:  # the kernel takes little for a client that does not read; accepted sockets have it from here
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        port: int = listening.getsockname()[1]
        credentials = authority.credentials() if tls else None
        serving = partial(serve, handler, [listening], credentials, limits or Limits(), clock=SystemClock())
        server: Server = await nursery.start(serving)
        return server, await dialler.dial(port, authority.client_context(client_files) if tls else None)

    return run


def short(request: Request, _peer: Peer) -> Response:
    return Response(200, request.target)


async def test_a_record_that_is_cut_after_a_full_batch_is_waited_for(start: Start) -> None:
    """Sixteen whole records and a piece of one more: the loop sleeps until the rest has come."""
    server, client = await start(short, tls=True)
    await client.send(GET % b"hello")
    await client.answer("GET")
    stream = client.stream
    assert isinstance(stream, trio.SSLStream)
    below, records = stream.transport_stream, []
    for number in range(17):
        stream._ssl_object.write(GET % b"%d" % number)  # records made, but not sent
        records.append(stream._outgoing.read())
    await below.send_all(b"".join(records)[:-10])
    for number in range(16):
        assert (await client.answer("GET"))[2] == b"/%d" % number
    with trio.fail_after(20):
        await trio.testing.wait_all_tasks_blocked(0.02)  # never, while a task spins
    await below.send_all(records[-1][-10:])
    assert (await client.answer("GET"))[2] == b"/16"
    assert server.statistics().connections == 1


async def test_at_the_cap_nobody_spins(start: Start) -> None:
    """A connection at the cap that proves itself makes no room."""
    server, client = await start(short, tls=True, limits=Limits(max_connections=1))
    await client.send(GET % b"hello")
    await client.answer("GET")
    with trio.fail_after(20):
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert server.statistics().connections == 1


async def test_a_client_that_always_has_half_a_request_under_way_is_not_cut(start: Start) -> None:
    timeout = Seconds(0.3)
    server, client = await start(short, limits=Limits(request_timeout=timeout))
    request = GET % b"half"
    await client.send(request[:10])
    for _ in range(20):  # twice the time-out, but never a tenth of it for one request
        await client.send(request[10:] + request[:10])
        assert (await client.answer("GET"))[0] == 200
        await trio.sleep(timeout / 10)
    assert server.statistics().overdue == 0


async def test_a_client_that_resets_before_its_handler_is_awaited_leaves_nothing_behind(start: Start) -> None:
    """The answers before it cannot be sent, so nobody will await the one that was begun."""
    hold: list[socket.socket] = []

    async def never() -> Response:
        await trio.sleep_forever()
        raise AssertionError

    def handler(request: Request, _peer: Peer) -> Response | Awaitable[Response]:
        if request.target == b"/wait":
            hold.pop().close()  # a reset, before the first answer is written
            return never()
        return Response(200, b"")

    server, client = await start(handler)
    stream = client.stream
    assert isinstance(stream, trio.SocketStream)
    raw = socket.socket(fileno=stream.socket.detach())
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    hold.append(raw)
    raw.send(GET % b"first" + GET % b"wait")
    await until(lambda: server.statistics().accepted == 1 and not hold and server.statistics().connections == 0)
    assert server.waiting == 0


async def test_no_more_wait_than_allowed_though_they_come_in_one_round(start: Start, dialler: Dialler) -> None:
    release = trio.Event()

    async def later() -> Response:
        await release.wait()
        return Response(200, b"")

    server, first = await start(lambda _request, _peer: later(), limits=Limits(max_waiting=1))
    stream = first.stream
    assert isinstance(stream, trio.SocketStream)
    second = await dialler.dial(stream.socket.getpeername()[1], None)
    await until(lambda: server.statistics().connections == 2)
    for client in (first, second):  # no checkpoint of ours between: both are read in one round
        assert isinstance(client.stream, trio.SocketStream)
        socket_ = client.stream.socket._sock
        socket_.send(GET % b"x")
    await until(lambda: server.shed == 1)
    release.set()
    statuses = sorted([(await client.answer("GET"))[0] for client in (first, second)])
    assert statuses == [200, 503]


async def test_a_last_answer_that_had_to_wait_for_its_reader_is_listened_after(start: Start) -> None:
    """After the last byte went out the peer is listened to for a while, or what it sent would reset its answer."""
    server, client = await start(lambda _request, _peer: Response(200, LARGE, close=True))
    await client.send(GET % b"x")
    await until(lambda: any(one.is_parting for one in server._connections))
    held = next(iter(server._connections))
    assert (await client.answer("GET"))[2] == LARGE
    await until(lambda: not held._unsent)
    assert not held.is_overdue(trio.current_time() + 0.5)
    assert held.is_overdue(trio.current_time() + 1.5)


Waiting = tuple[Server, RawClient, trio.Event]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def over_tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def wait_behind_another_answer(
    start: Start, *, over_tls: bool, close: bool = False, limits: Limits | None = None
) -> Waiting:
    """A client that reads nothing of the first answer, while the handler of its next request waits for the event."""
    release = trio.Event()

    async def later(request: Request) -> Response:
        await release.wait()
        return Response(200, request.target, close=close)

    def handler(request: Request, _peer: Peer) -> Response | Awaitable[Response]:
        if request.target == b"/middling":
            return Response(200, MIDDLING)
        return later(request) if request.target == b"/later" else Response(200, request.target)

    server, client = await start(handler, tls=over_tls, limits=limits, narrow=True)
    await client.send(GET % b"middling" + GET % b"later" + GET % b"after")
    await until(lambda: server.waiting == 1)
    assert the_only(server)._unsent
    return server, client, release


def the_only(server: Server) -> Connection:
    (connection,) = server._connections
    return connection


async def test_an_answer_that_was_waited_for_goes_behind_what_is_unsent(start: Start, *, over_tls: bool) -> None:
    server, client, release = await wait_behind_another_answer(start, over_tls=over_tls)
    release.set()
    await until(lambda: server.waiting == 0)
    connection = the_only(server)
    await until(lambda: connection.state is State.OPEN)
    assert connection._unsent
    assert (await client.answer("GET"))[2] == MIDDLING
    assert [(await client.answer("GET"))[2] for _ in range(2)] == [b"/later", b"/after"]
    await client.send(GET % b"more")
    assert (await client.answer("GET"))[2] == b"/more"


async def test_what_is_unsent_goes_out_while_a_handler_waits(start: Start, *, over_tls: bool) -> None:
    server, client, release = await wait_behind_another_answer(start, over_tls=over_tls)
    assert (await client.answer("GET"))[2] == MIDDLING
    connection = the_only(server)
    await until(lambda: not connection._unsent)
    with trio.fail_after(20):
        await trio.testing.wait_all_tasks_blocked(0.02)  # never, while it spins on a socket that could take more
    assert connection.state is State.WAITING
    release.set()
    assert [(await client.answer("GET"))[2] for _ in range(2)] == [b"/later", b"/after"]


async def test_a_last_answer_that_was_waited_for_goes_behind_what_is_unsent(start: Start, *, over_tls: bool) -> None:
    server, client, release = await wait_behind_another_answer(start, over_tls=over_tls, close=True)
    release.set()
    await until(lambda: the_only(server).is_parting)
    assert the_only(server)._unsent
    assert (await client.answer("GET"))[2] == MIDDLING
    assert (await client.answer("GET"))[2] == b"/later"
    assert await client.ended()
    await until(lambda: not server.statistics().connections)
    assert server.statistics().answered == {200: 2}  # what came behind the last one was not looked at


async def test_a_client_that_reads_neither_answer_is_cut(start: Start, *, over_tls: bool) -> None:
    limits = Limits(request_timeout=Seconds(0.3))
    server, _, release = await wait_behind_another_answer(start, over_tls=over_tls, limits=limits)
    release.set()
    await until(lambda: server.statistics().overdue == 1)
    assert (server.waiting, server.statistics().connections) == (0, 0)


async def test_a_client_that_resets_before_the_answer_it_waits_for_harms_nobody(start: Start, dialler: Dialler) -> None:
    server, client, release = await wait_behind_another_answer(start, over_tls=False)
    assert isinstance(client.stream, trio.SocketStream)
    port = client.stream.socket.getpeername()[1]
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.stream.socket.close()
    await until(lambda: not server.statistics().connections)
    release.set()
    await until(lambda: server.waiting == 0)
    assert server.statistics().handler_errors == 0
    other = await dialler.dial(port, None)
    await other.send(GET % b"other")
    assert (await other.answer("GET"))[2] == b"/other"
