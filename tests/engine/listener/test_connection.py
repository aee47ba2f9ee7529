"""Connections at their limits: no deadline is lost, none strikes those who keep theirs, nothing spins."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.clock import Seconds
from engine.listener.http1 import Request, Response
from engine.listener.serve import Limits, Peer, Server, serve
from engine.telemetry.host import SystemClock
from tests.support.mutual_tls import Authority, Dialler, RawClient, until

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"x" * 4_000_000  # more than the kernel takes for a client that does not read
Start = Callable[..., Awaitable[tuple[Server, RawClient]]]
Handler = Callable[[Request, Peer], Response | Awaitable[Response]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("edp")


@pytest.fixture
async def dialler() -> AsyncIterator[Dialler]:
    dialler = Dialler()
    yield dialler
    dialler.close()


@pytest.fixture
async def start(
    nursery: trio.Nursery, dialler: Dialler, authority: Authority, client_files: tuple[Path, Path]
) -> Start:
    async def run(handler: Handler, *, tls: bool = False, limits: Limits | None = None) -> tuple[Server, RawClient]:
        listening = socket.create_server(("127.0.0.1", 0))
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
    with trio.fail_after(5):
        await trio.testing.wait_all_tasks_blocked(0.02)  # never, while a task spins
    await below.send_all(records[-1][-10:])
    assert (await client.answer("GET"))[2] == b"/16"
    assert server.statistics().connections == 1


async def test_at_the_cap_nobody_spins(start: Start) -> None:
    """A connection at the cap that proves itself makes no room."""
    server, client = await start(short, tls=True, limits=Limits(max_connections=1))
    await client.send(GET % b"hello")
    await client.answer("GET")
    with trio.fail_after(5):
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
