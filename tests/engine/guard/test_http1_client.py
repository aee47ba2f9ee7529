"""The guard's own HTTP/1.1 client over real sockets and real TLS: every way in which a node can fail it."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.http1_client import Http1Transport, client_tls
from engine.listener.tls import server_context
from tests.support.mutual_tls import Authority
from tests.support.scripted_server import Script, Scripted

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])
CALL = Call(b"/introspect", b"token=t", b"n1", b"application/x-www-form-urlencoded", b"application/json", max_body=1000)


def says(body: bytes = b"yes", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"\r\n".join((b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields))
    return head + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def serve(authority: Authority) -> Iterator[Callable[[Script], Scripted]]:
    running: list[Scripted] = []

    def start(script: Script) -> Scripted:
        running.append(Scripted(script, authority))
        return running[-1]

    yield start
    for server in running:
        server.close()


def transport(authority: Authority, *, owner: Authority | None = None, size: int = 4) -> Http1Transport:
    certificate, key = (owner or authority).issue("guard")
    return Http1Transport(client_tls(authority.file, certificate, key), size)


def run(backend: str, carrier: Http1Transport, do: Callable[[], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        try:
            with anyio.fail_after(20):
                return await do()
        finally:
            await carrier.aclose()

    return anyio.run(whole, backend=backend)


def failure(backend: str, carrier: Http1Transport, port: int, host: str = "localhost") -> Failure:
    async def ask() -> Failure:
        with pytest.raises(CallFailed) as caught:
            await carrier.call(f"https://{host}:{port}", CALL)
        return caught.value.failure

    found: Failure = run(backend, carrier, ask)
    return found


@contextlib.contextmanager
def once(said: bytes | None, tls: ssl.SSLContext | None, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that takes one connection, reads one request, says what it was told and hangs up; its port."""

    def serve(listening: socket.socket) -> None:
        connected, _ = listening.accept()
        with contextlib.suppress(OSError), tls.wrap_socket(connected, server_side=True) if tls else connected as wire:
            wire.recv(65536)
            wire.sendall(said or b"")

    with socket.create_server((host, 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@BACKENDS
def test_a_call_is_carried_and_its_connection_used_again(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    fields = (b"Content-Type: Application/JSON; charset=utf-8", b"X-Request-ID: n1", b"Retry-After: 7")
    server, carrier = serve(lambda _number, _request: says(b"yes", *fields)), transport(authority)

    async def ask() -> list[Reply]:
        return [await carrier.call(f"https://localhost:{server.port}", CALL) for _ in range(3)]

    assert run(backend, carrier, ask) == [Reply(200, b"application/json", b"yes", b"n1", b"7")] * 3
    assert len(server._sockets) == 1
    assert server.requests[0].startswith(b"POST /introspect HTTP/1.1\r\nHost: localhost:%d\r\n" % server.port)
    assert b"\r\nX-Request-ID: n1\r\nContent-Length: 7\r\n\r\ntoken=t" in server.requests[0]


@BACKENDS
@pytest.mark.parametrize(
    ("said", "failed"),
    [
        (None, Failure.RESET),  # hangs up
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ntrunc", Failure.RESET),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", Failure.RESET),  # nobody can tell whether that is all
        (b"SSH-2.0-OpenSSH_9\r\n", Failure.NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nyes", Failure.NO_ANSWER),
        (says(b"x" * 1001), Failure.NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Large: y\r\n" * 4000 + b"\r\n", Failure.NO_ANSWER),
    ],
)
def test_what_is_no_whole_reply(authority: Authority, backend: str, said: bytes | None, failed: Failure) -> None:
    """The server hangs up after the bytes that it was told to say."""
    with once(said, server_context(*authority.issue("once"), authority.file)) as port:
        assert failure(backend, transport(authority), port) is failed


@BACKENDS
def test_a_call_that_ends_after_the_client_was_closed_leaves_no_connection(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    closed = threading.Event()

    def script(_number: int, _request: bytes) -> bytes:
        assert closed.wait(20)
        return says()

    server, carrier = serve(script), transport(authority)

    async def ask() -> bytes:
        async with anyio.create_task_group() as group:
            group.start_soon(close_when_asked)
            return (await carrier.call(f"https://localhost:{server.port}", CALL)).body

    async def close_when_asked() -> None:
        while not server.requests:  # noqa: ASYNC110 - a thread's, which rings no bell of ours
            await anyio.sleep(0.01)
        await carrier.aclose()
        closed.set()

    assert run(backend, carrier, ask) == b"yes"
    (pool,) = carrier._pools.values()
    assert (len(pool._idle), pool._open) == (0, 0)
    assert failure(backend, carrier, server.port) is Failure.BUSY
    assert len(server.requests) == 1


@BACKENDS
def test_a_kept_connection_that_has_died_is_replaced_within_the_call(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    """The first call of each connection is answered; the next finds the connection gone."""
    server, carrier = serve(lambda number, _request: says() if number != 2 else None), transport(authority)

    async def ask() -> list[bytes]:
        return [(await carrier.call(f"https://localhost:{server.port}", CALL)).body for _ in range(2)]

    assert run(backend, carrier, ask) == [b"yes", b"yes"]
    assert len(server._sockets) == 2


@BACKENDS
def test_a_fresh_connection_that_dies_is_a_failure(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    server = serve(lambda _number, _request: None)
    assert failure(backend, transport(authority), server.port) is Failure.RESET
    assert len(server.requests) == 1


@BACKENDS
def test_a_connection_that_holds_a_byte_too_many_is_not_used_again(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    """An answer that nobody asked for must not be taken for the next question's."""
    server, carrier = serve(lambda _number, _request: says(b"one") + says(b"two")), transport(authority)

    async def ask() -> list[bytes]:
        return [(await carrier.call(f"https://localhost:{server.port}", CALL)).body for _ in range(2)]

    assert run(backend, carrier, ask) == [b"one", b"one"]
    assert len(server._sockets) == 2


@BACKENDS
def test_a_cancelled_call_takes_its_connection_with_it(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    release = threading.Event()

    def script(number: int, _request: bytes) -> bytes:
        if number == 1:
            release.wait(30)
        return says(b"%d" % number)

    server, carrier = serve(script), transport(authority, size=1)

    async def ask() -> bytes:
        async with anyio.create_task_group() as group:
            group.start_soon(carrier.call, f"https://localhost:{server.port}", CALL)
            while not server.requests:  # noqa: ASYNC110 - a thread rings no bell here
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        release.set()
        return (await carrier.call(f"https://localhost:{server.port}", CALL)).body

    assert run(backend, carrier, ask) == b"2"


@BACKENDS
def test_a_place_in_the_pool_is_waited_for_and_its_lack_is_our_own_fault(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    release = threading.Event()
    server = serve(lambda number, _request: (release.wait(30) if number == 1 else None, says())[1])
    carrier = transport(authority, size=1)
    found: list[object] = []

    async def one() -> None:
        try:
            found.append((await carrier.call(f"https://localhost:{server.port}", CALL)).status)
        except CallFailed as fault:
            found.append(fault.failure)
            release.set()

    async def ask() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(one)

    run(backend, carrier, ask)
    assert found == [Failure.BUSY, 200]


@BACKENDS
def test_a_port_where_nobody_listens(authority: Authority, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert failure(backend, transport(authority), port) is Failure.CONNECT


def test_a_host_that_nobody_knows(authority: Authority) -> None:
    assert failure("trio", transport(authority), 443, "host.invalid") is Failure.CONNECT


@BACKENDS
def test_a_black_hole_is_left_after_a_second(authority: Authority, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert failure(backend, transport(authority), silent.getsockname()[1]) is Failure.TIMEOUT


@BACKENDS
def test_a_server_of_another_authority_is_no_outage(
    serve: Callable[[Script], Scripted], tmp_path: Path, backend: str
) -> None:
    server = serve(lambda _number, _request: says())
    stranger = Authority(tmp_path)
    assert failure(backend, transport(stranger), server.port) is Failure.TLS


@BACKENDS
def test_a_server_of_another_name_is_no_outage(authority: Authority, backend: str) -> None:
    with once(says(), server_context(*authority.issue("once"), authority.file), host="127.0.0.2") as port:
        assert failure(backend, transport(authority), port, "127.0.0.2") is Failure.TLS


@BACKENDS
def test_an_alert_about_our_certificate_is_no_outage(
    serve: Callable[[Script], Scripted], authority: Authority, tmp_path: Path, backend: str
) -> None:
    """In TLS 1.3 it comes when our first request may be under way already."""
    server = serve(lambda _number, _request: says())
    assert failure(backend, transport(authority, owner=Authority(tmp_path)), server.port) is Failure.TLS


@BACKENDS
def test_a_server_that_speaks_no_tls_is_no_outage(authority: Authority, backend: str) -> None:
    with once(says(), None) as port:
        assert failure(backend, transport(authority), port) is Failure.TLS


@BACKENDS
def test_calls_cancelled_anywhere_leave_the_pool_whole(
    serve: Callable[[Script], Scripted], authority: Authority, backend: str
) -> None:
    """Forty calls cut off at every stage, in waiting, connecting, shaking hands and reading; then all places serve."""
    server, carrier = serve(lambda _number, request: says(request[-7:])), transport(authority, size=2)

    async def cut(seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await carrier.call(f"https://localhost:{server.port}", CALL)

    async def ask() -> list[bytes]:
        for round_ in range(10):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(cut, 0.0005 * (round_ + number * 3))
        found: list[bytes] = []

        async def whole() -> None:
            found.append((await carrier.call(f"https://localhost:{server.port}", CALL)).body)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(whole)
        return found

    assert run(backend, carrier, ask) == [b"token=t"] * 4
