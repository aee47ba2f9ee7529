"""The server on real sockets, over real mutual TLS: order, deadlines, caps, drain, and nothing that ends it."""

import hashlib
import io
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from engine.clock import BootTime, Seconds, UnixTime
from engine.listener.http1 import HeadLimits, Request, Response
from engine.listener.serve import Limits, Peer, Server, serve
from engine.telemetry import logs
from engine.telemetry.floods import LINES_A_SECOND
from engine.telemetry.host import SystemClock
from tests.support.mutual_tls import Authority, Dialler, RawClient, until

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
ORDINARY = Limits()
BRIEF = Seconds(0.05)


async def echo(request: Request, _peer: Peer) -> Response:
    return Response(200, request.target + request.body)


class Running:
    """A server under test and how to reach it."""

    def __init__(self, server: Server, port: int, context: ssl.SSLContext | None, dialler: Dialler) -> None:
        self.dialler = dialler
        self.server = server
        self.port = port
        self.context = context

    async def client(self) -> RawClient:
        return await self.dialler.dial(self.port, self.context)

    async def client_with(self, context: ssl.SSLContext | None) -> RawClient:
        return await self.dialler.dial(self.port, context)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(
    nursery: trio.Nursery, dialler: Dialler, authority: Authority, client_files: tuple[Path, Path]
) -> Start:
    async def run(
        handler: Callable[[Request, Peer], Awaitable[Response]] = echo,
        *,
        limits: Limits = ORDINARY,
        tls: bool = True,
        clock: SystemClock | None = None,
    ) -> Running:
        listening = socket.create_server(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        credentials = authority.credentials() if tls else None
        serving = partial(serve, handler, [listening], credentials, limits, clock=clock or SystemClock())
        server = await nursery.start(serving)
        return Running(server, port, authority.client_context(client_files) if tls else None, dialler)

    return run


@pytest.mark.parametrize("tls", [True, False])
async def test_request_is_answered_and_the_connection_stays(start: Start, *, tls: bool) -> None:
    client = await (await start(tls=tls)).client()
    for name in (b"a", b"b"):
        await client.send(GET % name)
        status, headers, body = await client.answer("GET")
        assert (status, body) == (200, b"/" + name)
        assert headers["date"].endswith("GMT")


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    async def uneven(request: Request, _peer: Peer) -> Response:
        if request.target == b"/0":
            await trio.lowlevel.checkpoint()
        return Response(200, request.target)

    client = await (await start(uneven)).client()
    await client.send(b"".join(GET % b"%d" % number for number in range(60)))
    bodies = [(await client.answer("GET"))[2] for _ in range(60)]
    assert bodies == [b"/%d" % number for number in range(60)]


async def test_pipelined_requests_beyond_one_record_and_one_batch_are_answered(start: Start) -> None:
    async def large(request: Request, _peer: Peer) -> Response:
        return Response(200, request.target * 4000)

    client = await (await start(large)).client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"".join(GET % b"%04d" % number for number in range(1000)))
        for number in range(1000):
            assert (await client.answer("GET"))[2] == b"/%04d" % number * 4000


async def test_a_read_full_of_requests_leaves_others_their_turn(start: Start) -> None:
    seen: list[bytes] = []

    async def note(request: Request, _peer: Peer) -> Response:
        seen.append(request.target)
        return Response(200, b"")

    running = await start(note, tls=False)
    first, second = await running.client(), await running.client()
    for client in (first, second):
        await client.send(GET % b"hello")
        await client.answer("GET")
    await first.send((GET % b"first") * 500)
    await second.send(GET % b"second")
    assert (await second.answer("GET"))[0] == 200
    assert seen.index(b"/second") < 500


async def test_a_flood_of_refusals_is_not_a_flood_of_lines(start: Start) -> None:
    running = await start(tls=False)
    stream = io.BytesIO()
    logs.configure("info", stream=stream)
    try:
        for _ in range(LINES_A_SECOND * 3):
            client = await running.client()
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.answer("GET"))[0] == 400
    finally:
        structlog.reset_defaults()
    lines = stream.getvalue().splitlines()
    assert 0 < len(lines) <= LINES_A_SECOND * 2
    assert running.server.statistics().answered == {400: LINES_A_SECOND * 3}


async def test_handler_learns_who_calls(start: Start, client_files: tuple[Path, Path]) -> None:
    peers: list[Peer] = []

    async def note(_request: Request, peer: Peer) -> Response:
        peers.append(peer)
        return Response(200, b"")

    client = await (await start(note)).client()
    await client.send(GET % b"")
    await client.answer("GET")
    der = ssl.PEM_cert_to_DER_cert(client_files[0].read_text())
    assert peers[0].thumbprint == hashlib.sha256(der).digest()
    assert peers[0].not_after > SystemClock().now()


async def test_handler_that_raises_answers_500_and_the_server_goes_on(start: Start) -> None:
    async def fragile(request: Request, _peer: Peer) -> Response:
        if request.target == b"/bad":
            raise RuntimeError("a bug")
        return Response(200, b"ok")

    running = await start(fragile)
    client = await running.client()
    await client.send(GET % b"bad" + GET % b"good")
    status, _, body = await client.answer("GET")
    assert (status, body) == (500, b'{"error":"server_error"}')
    assert (await client.answer("GET"))[0] == 200
    assert running.server.statistics().handler_errors == 1


async def test_refusal_is_answered_and_closes(start: Start) -> None:
    running = await start(limits=Limits(http=HeadLimits(max_head=200)))
    client = await running.client()
    await client.send(GET % b"first" + GET % (b"a" * 500))
    assert (await client.answer("GET"))[0] == 200
    status, headers, _ = await client.answer("GET")
    assert (status, headers["connection"]) == (414, "close")
    assert await client.ended()


async def test_refused_sender_of_a_large_body_sees_the_answer(start: Start) -> None:
    client = await (await start(tls=False)).client()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n"
    await client.send(head + b"a" * 400_000)
    assert (await client.answer())[0] == 413


ID = b"X-Request-ID: id-1\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\n" + ID + b"Content-Length: 400000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\n" + ID + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\n" + ID + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + ID + b"Filler: " + b"a" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n" + ID + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + ID + b"not a field\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + ID + b"Odd: a\nb\r\n\r\n", 400),
        (b"nonsense\r\n" + ID + b"\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n" + ID + b"\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n" + ID + b"\r\n", 417),
        (b"GET / HTTP/2.0\r\n" + ID + b"\r\n", 505),
    ],
)
async def test_refusals_of_a_read_head_repeat_the_request_id(start: Start, raw: bytes, status: int) -> None:
    client = await (await start(tls=False)).client()
    await client.send(raw)
    told, headers, _ = await client.answer()
    assert (told, headers["x-request-id"]) == (status, "id-1")


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Request-ID: a b\r\n",
        b"X-Request-ID: " + b"a" * 129 + b"\r\n",
        ID + ID,
        b"Odd: a\n" + ID,  # after the line that cannot be read
    ],
)
async def test_refusals_repeat_no_other_id(start: Start, fields: bytes) -> None:
    client = await (await start(tls=False)).client()
    await client.send(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
    status, headers, _ = await client.answer("GET")
    assert status == 400
    assert "x-request-id" not in headers


async def test_an_id_that_was_cut_off_is_not_repeated(start: Start) -> None:
    client = await (await start(tls=False, limits=Limits(http=HeadLimits(max_head=60)))).client()
    await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: " + b"a" * 60)
    status, headers, _ = await client.answer("GET")
    assert status == 431
    assert "x-request-id" not in headers


async def test_every_answer_repeats_the_request_id(start: Start) -> None:
    client = await (await start(tls=False)).client()
    for number in range(3):
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: id-%d\r\n\r\n" % number)
        status, headers, _ = await client.answer("GET")
        assert (status, headers["x-request-id"]) == (200, f"id-{number}")
    await client.send(GET % b"")
    assert "x-request-id" not in (await client.answer("GET"))[1]


async def test_an_error_of_ours_repeats_the_request_id(start: Start) -> None:
    async def fragile(_request: Request, _peer: Peer) -> Response:
        raise RuntimeError("a bug")

    client = await (await start(fragile, tls=False)).client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + ID + b"\r\n")
    status, headers, _ = await client.answer("GET")
    assert (status, headers["x-request-id"]) == (500, "id-1")


async def test_connection_ends_when_the_client_asks(start: Start) -> None:
    client = await (await start()).client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    _, headers, _ = await client.answer("GET")
    assert headers["connection"] == "close"
    assert await client.ended()


async def test_expectation_is_answered_over_the_wire(start: Start) -> None:
    client = await (await start()).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"ab")
    assert (await client.answer())[2] == b"/ab"


async def test_head_is_answered_without_body(start: Start) -> None:
    client = await (await start()).client()
    await client.send(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n" + GET % b"next")
    _, headers, body = await client.answer("HEAD")
    assert (headers["content-length"], body) == ("4", b"")
    assert (await client.answer("GET"))[2] == b"/next"


# --- deadlines and caps -----------------------------------------------------------------------------------------------


async def test_idle_connection_is_cut(start: Start) -> None:
    running = await start(limits=Limits(idle_timeout=BRIEF))
    client = await running.client()
    await client.send(GET % b"")
    await client.answer("GET")
    assert await client.ended()


async def test_a_request_at_the_end_of_idleness_has_its_whole_time(start: Start) -> None:
    left: list[float] = []

    async def note(_request: Request, _peer: Peer) -> Response:
        left.append(trio.current_effective_deadline() - trio.current_time())
        return Response(200, b"")

    limits = Limits(idle_timeout=Seconds(5.0), request_timeout=Seconds(30.0))
    client = await (await start(note, limits=limits)).client()
    for _ in range(2):
        await client.send(GET % b"")
        await client.answer("GET")
    assert min(left) > 20.0


async def test_slow_sender_is_cut(start: Start) -> None:
    running = await start(limits=Limits(request_timeout=BRIEF))
    client = await running.client()
    await client.send(GET % b"")
    await client.answer("GET")
    await client.send(b"GET / HTTP/1.1\r\n")
    assert await client.ended()
    assert running.server.statistics().overdue == 1


async def test_silent_handshake_is_cut(start: Start) -> None:
    running = await start(limits=Limits(handshake_timeout=BRIEF))
    client = await running.client_with(None)
    assert await client.ended()
    assert running.server.statistics().overdue == 1


async def test_reader_that_does_not_read_is_cut(start: Start) -> None:
    async def large(_request: Request, _peer: Peer) -> Response:
        return Response(200, b"a" * 8_000_000)

    running = await start(large, limits=Limits(request_timeout=BRIEF), tls=False)
    client = await running.client()
    await client.send(GET % b"")
    await until(lambda: bool(running.server.statistics().overdue))
    assert running.server.statistics().connections == 0


async def test_connections_beyond_the_cap_wait_their_turn(start: Start) -> None:
    running = await start(limits=Limits(max_connections=1), tls=False)
    first, second = await running.client(), await running.client()
    await first.send(GET % b"first")
    await first.answer("GET")
    await second.send(GET % b"second")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert running.server.statistics().accepted == 1
    await first.stream.aclose()
    assert (await second.answer("GET"))[2] == b"/second"


# --- who may connect --------------------------------------------------------------------------------------------------


async def handshake_fails(client: RawClient) -> bool:
    try:
        await client.send(GET % b"")
        return not await client.receive()
    except (trio.BrokenResourceError, ssl.SSLError):
        return True


async def test_caller_without_certificate_is_refused_by_tls(start: Start, authority: Authority) -> None:
    running = await start()
    assert await handshake_fails(await running.client_with(authority.client_context(None)))
    await until(lambda: bool(running.server.statistics().handshakes_failed))
    assert running.server.statistics().answered == {}


async def test_caller_of_another_authority_is_refused_by_tls(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("stranger-edp")
    running = await start()
    assert await handshake_fails(await running.client_with(authority.client_context(stranger)))


async def test_plain_http_on_the_tls_port_is_no_request(start: Start) -> None:
    running = await start()
    client = await running.client_with(None)
    await client.send(GET % b"")
    await until(lambda: bool(running.server.statistics().handshakes_failed))
    assert running.server.statistics().answered == {}


async def test_tls_1_2_session_is_not_resumed(
    start: Start, authority: Authority, client_files: tuple[Path, Path]
) -> None:
    running = await start()
    context = authority.client_context(client_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    proven: list[bool] = []
    session: ssl.SSLSession | None = None
    for _ in range(2):
        plain = await trio.to_thread.run_sync(socket.create_connection, ("127.0.0.1", running.port))
        with await trio.to_thread.run_sync(
            partial(context.wrap_socket, plain, server_hostname="localhost", session=session)
        ) as secured:
            session = secured.session
            proven.append(not secured.session_reused)
    assert proven == [True, True]


class MovableClock(SystemClock):
    """The machine's clock, some seconds ahead."""

    ahead = 0

    def now(self) -> UnixTime:
        return UnixTime(super().now() + self.ahead)

    def boot(self) -> BootTime:
        return super().boot()


async def test_certificate_that_expires_meanwhile_ends_the_connection(start: Start) -> None:
    clock = MovableClock()
    client = await (await start(clock=clock)).client()
    await client.send(GET % b"")
    assert (await client.answer("GET"))[0] == 200
    clock.ahead = 3 * 86_400
    await client.send(GET % b"")
    assert await client.ended()


# --- drain ------------------------------------------------------------------------------------------------------------


async def test_drain_answers_what_is_under_way_and_ends_idle_connections(start: Start) -> None:
    entered, released = trio.Event(), trio.Event()

    async def slow(request: Request, _peer: Peer) -> Response:
        if request.target == b"/slow":
            entered.set()
            await released.wait()
        return Response(200, request.target)

    running = await start(slow)
    idle, busy = await running.client(), await running.client()
    await idle.send(GET % b"once")
    await idle.answer("GET")
    await busy.send(GET % b"slow")
    await entered.wait()
    running.server.drain()
    assert await idle.ended()
    released.set()
    _, headers, body = await busy.answer("GET")
    assert (headers["connection"], body) == ("close", b"/slow")
    assert await busy.ended()
    with pytest.raises(OSError, match=r"."):
        await running.client()


async def test_drain_waits_for_the_rest_of_a_begun_request(start: Start) -> None:
    running = await start()
    client = await running.client()
    await client.send(GET % b"first" + b"GET /second HTTP")
    await client.answer("GET")
    running.server.drain()
    await client.send(b"/1.1\r\nHost: x\r\n\r\n")
    _, headers, body = await client.answer("GET")
    assert (headers["connection"], body) == ("close", b"/second")


async def test_drain_is_bounded(dialler: Dialler, authority: Authority, client_files: tuple[Path, Path]) -> None:
    entered = trio.Event()

    async def stuck(_request: Request, _peer: Peer) -> Response:
        entered.set()
        await trio.sleep_forever()
        raise AssertionError

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    async with trio.open_nursery() as nursery:
        limits = Limits(drain_timeout=BRIEF)
        server = await nursery.start(
            partial(serve, stuck, [listening], authority.credentials(), limits, clock=SystemClock())
        )
        client = await dialler.dial(port, authority.client_context(client_files))
        await client.send(GET % b"")
        await entered.wait()
        server.drain()
    assert server.statistics().connections == 0


class OneEach:
    """A gate that lets each peer in once."""

    def __init__(self) -> None:
        self.inside: list[Peer] = []

    def enter(self, peer: Peer) -> Response | None:
        if peer in self.inside:
            return Response(429, b"{}", headers=((b"Retry-After", b"1"),), close=True)
        self.inside.append(peer)
        return None

    def leave(self, peer: Peer) -> None:
        self.inside.remove(peer)


async def test_whom_the_gate_does_not_let_in_is_told_and_sent_away(
    nursery: trio.Nursery, dialler: Dialler, authority: Authority, client_files: tuple[Path, Path]
) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port, gate = listening.getsockname()[1], OneEach()
    serving = partial(serve, echo, [listening], authority.credentials(), ORDINARY, clock=SystemClock(), gate=gate)
    server: Server = await nursery.start(serving)
    context = authority.client_context(client_files)
    first = await dialler.dial(port, context)
    await first.send(GET % b"a")
    assert (await first.answer("GET"))[0] == 200
    second = await dialler.dial(port, context)
    await second.send(GET % b"b")
    status, headers, _ = await second.answer("GET")
    assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
    assert len(gate.inside) == 1
    await first.send(GET % b"c")
    assert (await first.answer("GET"))[2] == b"/c"
    await first.stream.aclose()
    await second.stream.aclose()
    await until(lambda: server.statistics().connections == 0)
    assert gate.inside == []
    assert server.statistics().turned_away == 1


async def test_more_waiting_than_allowed_are_told_to_come_back(start: Start) -> None:
    release = trio.Event()

    async def slow(request: Request, _peer: Peer) -> Response:
        await release.wait()
        return Response(200, request.target)

    running = await start(slow, tls=False, limits=Limits(max_waiting=2))
    waiting = [await running.client() for _ in range(2)]
    for client in waiting:
        await client.send(GET % b"w")
    await until(lambda: running.server.waiting == 2)
    late = await running.client()
    await late.send(GET % b"late")
    status, headers, body = await late.answer("GET")
    assert (status, headers["retry-after"], body) == (503, "1", b'{"error":"temporarily_unavailable"}')
    assert running.server.statistics().shed == 1
    release.set()
    for client in waiting:
        assert (await client.answer("GET"))[0] == 200
    await late.send(GET % b"again")
    assert (await late.answer("GET"))[2] == b"/again"


async def test_who_waited_too_long_in_one_round_is_told_to_come_back(start: Start) -> None:
    def thorough(_request: Request, _peer: Peer) -> Response:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:  # a handler that keeps the processor to itself
            pass
        return Response(200, b"")

    running = await start(thorough, tls=False, limits=Limits(shed_after=Seconds(0.01)))
    clients = [await running.client() for _ in range(60)]
    for client in clients:  # each has its place in the loop
        await client.send(GET % b"hello")
        await client.answer("GET")
    for client in clients:
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.socket._sock.send(GET % b"x")  # type: ignore[attr-defined] - all are ready before the first round, for nothing was awaited
    statuses = [(await client.answer("GET"))[0] for client in clients]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) == running.server.statistics().shed
