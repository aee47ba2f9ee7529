"""Clients that mean harm, or are broken, against the real server over real TLS: each gets what it deserves and nobody
else notices.
"""

import contextlib
import random
import shutil
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.clock import Seconds, UnixTime
from engine.consent.records import Role
from engine.listener.http1 import HeadLimits, Request, Response
from engine.listener.serve import Handler, Limits, Peer, Server, serve
from engine.listener.tls import Credentials
from engine.telemetry.host import SystemClock
from tests.support.endpoint import Node
from tests.support.mutual_tls import Authority, Dialler, RawClient, until
from tests.support.pki import NOW, Pki
from tests.support.tls_records import APPLICATION_DATA, Sealer, client_secret

HONEST = b"GET /honest HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
BRIEF = Seconds(0.25)  # and long enough for an honest handshake on a busy machine
SMALL = Limits(http=HeadLimits(max_head=1024, max_body=1024))


class Besieged:
    """A server, what its handler has seen, and how its clients reach it."""

    def __init__(self, server: Server, port: int, context: ssl.SSLContext, dialler: Dialler) -> None:
        self.server, self.port, self.context = server, port, context
        self.seen: list[bytes] = []
        self._dialler = dialler

    async def client(self) -> RawClient:
        """Over mutual TLS."""
        return await self._dialler.dial(self.port, self.context)

    async def plain(self) -> RawClient:
        """TCP alone, for those that never get through the handshake."""
        return await self._dialler.dial(self.port, None)

    async def serves_the_next(self) -> bool:
        """Whether an honest client is answered."""
        client = await self.client()
        await client.send(HONEST)
        return (await client.answer("GET"))[0] == 200


Besiege = Callable[..., Awaitable[Besieged]]


@pytest.fixture
async def besiege(
    nursery: trio.Nursery,
    dialler: Dialler,
    authority: Authority,
    credentials: Credentials,
    client_files: tuple[Path, Path],
) -> Besiege:
    async def run(limits: Limits = SMALL, handler: Handler | None = None) -> Besieged:
        seen: list[bytes] = []

        def note(request: Request, _peer: Peer) -> Response:
            seen.append(request.target)
            return Response(200, request.target + request.body)

        listening = socket.create_server(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        serving = partial(serve, handler or note, [listening], credentials, limits, clock=SystemClock())
        besieged = Besieged(await nursery.start(serving), port, authority.client_context(client_files), dialler)
        besieged.seen = seen
        return besieged

    return run


async def status_and_end(client: RawClient) -> int:
    """The status of the one answer that is followed by the end of the connection."""
    status, headers, _ = await client.answer()
    assert headers["connection"] == "close"
    assert await client.ended()
    return status


# --- messages that could be read in two ways --------------------------------------------------------------------------


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /outer HTTP/1.1", b"Host: localhost", *fields, b"", body))


CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 5"
NO_CHUNKS = b"0\r\n\r\n"
SMUGGLERS = {
    "CL.TE": (400, post(LENGTH, CHUNKED, body=NO_CHUNKS)),
    "TE.CL": (400, post(CHUNKED, LENGTH, body=NO_CHUNKS)),
    "CL.0": (400, post(b"Content-Length: 0", CHUNKED, body=NO_CHUNKS)),
    "TE.TE, second unknown": (400, post(CHUNKED, b"Transfer-Encoding: cow", body=NO_CHUNKS)),
    "TE.TE, first unknown": (501, post(b"Transfer-Encoding: cow", CHUNKED, body=NO_CHUNKS)),
    "TE.TE, twice": (400, post(CHUNKED, CHUNKED, body=NO_CHUNKS)),
    "TE with a prefix": (501, post(b"Transfer-Encoding: xchunked", body=NO_CHUNKS)),
    "TE quoted": (501, post(b'Transfer-Encoding: "chunked"', body=NO_CHUNKS)),
    "TE with a parameter": (501, post(b"Transfer-Encoding: chunked;q=1", body=NO_CHUNKS)),
    "TE identity": (501, post(b"Transfer-Encoding: identity", body=NO_CHUNKS)),
    "TE empty": (400, post(b"Transfer-Encoding:", body=NO_CHUNKS)),
    "TE with a vertical tab": (400, post(b"Transfer-Encoding: \x0bchunked", body=NO_CHUNKS)),
    "TE with a tab": (400, post(b"Transfer-Encoding: chunked\t", body=NO_CHUNKS)),
    "TE with a space before the colon": (400, post(b"Transfer-Encoding : chunked", body=NO_CHUNKS)),
    "TE folded": (400, post(b"Transfer-Encoding:", b" chunked", body=NO_CHUNKS)),
    "TE behind a folded field": (400, post(b"A: b", b" Transfer-Encoding: chunked", body=NO_CHUNKS)),
    "TE behind a bare LF": (400, post(b"A: b\nTransfer-Encoding: chunked", body=NO_CHUNKS)),
    "TE behind a bare CR": (400, post(b"A: b\rTransfer-Encoding: chunked", body=NO_CHUNKS)),
    "TE in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "lengths that differ": (400, post(LENGTH, b"Content-Length: 0", body=b"12345")),
    "lengths that agree": (400, post(LENGTH, LENGTH, body=b"12345")),
    "list of lengths": (400, post(b"Content-Length: 5, 5", body=b"12345")),
    "length with plus": (400, post(b"Content-Length: +5", body=b"12345")),
    "length with minus": (400, post(b"Content-Length: -5", body=b"12345")),
    "length in hexadecimal": (400, post(b"Content-Length: 0x5", body=b"12345")),
    "length with a space inside": (400, post(b"Content-Length: 1 5", body=b"12345")),
    "length with an underscore": (400, post(b"Content-Length: 1_0", body=b"12345")),
    "length in other digits": (400, post("Content-Length: ٥".encode(), body=b"12345")),
    "length beyond any integer": (400, post(b"Content-Length: " + b"9" * 40)),
    "length behind NUL": (400, post(b"A: b\0", LENGTH, body=b"12345")),
    "obs-fold": (400, post(b"A: b", b"\tc")),
    "NUL in a name": (400, post(b"A\0B: c")),
    "NUL in a value": (400, post(b"A: \0")),
    "bare CR between fields": (400, post(b"A: b\rC: d")),
    "bare LF between fields": (400, post(b"A: b\nC: d")),
    "bare LF after everything": (400, b"GET / HTTP/1.1\nHost: localhost\n\n"),
    "header injection by the target": (400, b"GET /a\rb HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "Host twice": (400, post(b"Host: elsewhere")),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: localhost/smuggled\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "chunk size of sixteen digits": (400, post(CHUNKED, body=b"ffffffffffffffff\r\n")),
    "chunk size that wraps": (400, post(CHUNKED, body=b"100000000000000000\r\n")),
    "chunk size of eight digits": (413, post(CHUNKED, body=b"ffffffff\r\n")),
    "chunk size with minus": (400, post(CHUNKED, body=b"-1\r\n")),
    "chunk size with an underscore": (400, post(CHUNKED, body=b"1_0\r\n")),
    "chunk size before a bare LF": (400, post(CHUNKED, body=b"0\n\r\n")),
    "chunk that is longer than said": (400, post(CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n")),
    "chunk extension with a bare LF": (400, post(CHUNKED, body=b"0;\n\r\n\r\n")),
    "flood of chunk extensions": (400, post(CHUNKED, body=b"1;" + b"a=b;" * 500)),
    "flood of trailers": (400, post(CHUNKED, body=b"0\r\n" + b"a: b\r\n" * 500)),
    "length as a trailer": (400, post(CHUNKED, body=b"0\r\nContent-Length: 40\r\n\r\n")),
    "coding as a trailer": (400, post(CHUNKED, body=b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "HTTP/0.9": (400, b"GET /smuggled\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "CONNECT": (501, b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n"),
    "unknown expectation": (417, post(LENGTH, b"Expect: 200-maybe", body=b"12345")),
    "two expectations": (417, post(LENGTH, b"Expect: 100-continue", b"Expect: 100-continue", body=b"12345")),
    "body beyond the limit": (413, post(b"Content-Length: 1025")),
    "head beyond the limit": (431, post(b"A: " + b"a" * 2000)),
    "target beyond the limit": (414, b"GET /" + b"a" * 2000),
}


@pytest.mark.parametrize(("status", "raw"), SMUGGLERS.values(), ids=SMUGGLERS.keys())
async def test_doubtful_message_is_refused_and_nothing_after_it_is_read(
    besiege: Besiege, status: int, raw: bytes
) -> None:
    besieged = await besiege()
    client = await besieged.client()
    await client.send(HONEST + raw + SMUGGLED)
    assert (await client.answer("GET"))[2] == b"/honest"
    assert await status_and_end(client) == status
    assert besieged.seen == [b"/honest"]
    assert await besieged.serves_the_next()
    assert besieged.server.statistics().answered == {200: 2, status: 1}


async def test_an_absolute_target_of_another_host_changes_nothing(besiege: Besiege) -> None:
    besieged = await besiege()
    client = await besieged.client()
    await client.send(b"GET http://elsewhere/honest HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer("GET"))[0] == 200
    assert besieged.seen == [b"http://elsewhere/honest"]


async def test_headers_of_an_answer_hold_nothing_of_an_injected_id(besiege: Besiege) -> None:
    client = await (await besiege()).client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a%0d%0aSet-Cookie: b\r\n\r\n")
    status, headers, _ = await client.answer("GET")
    assert status == 200
    assert not {"set-cookie", "x-request-id"} & headers.keys()


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\nA: " + b"a" * 2000, b"GET /" + b"a" * 2000])
async def test_a_huge_head_sent_byte_by_byte_is_refused(besiege: Besiege, raw: bytes) -> None:
    besieged = await besiege()
    client = await besieged.client()
    for place in range(SMALL.http.max_head):
        await client.send(raw[place : place + 1])
    assert await status_and_end(client) in {414, 431}
    assert await besieged.serves_the_next()


async def test_a_flood_of_requests_is_answered_in_order_up_to_the_bad_one(besiege: Besiege) -> None:
    besieged = await besiege()
    client = await besieged.client()
    flood = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(1500)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"".join(flood) + b"nonsense\r\n\r\n" + SMUGGLED)
        for number in range(1500):
            assert (await client.answer("GET"))[2] == b"/%d" % number
        assert await status_and_end(client) == 400
    assert besieged.server.statistics().answered == {200: 1500, 400: 1}
    assert len(besieged.seen) == 1500


async def test_an_expectation_that_the_client_does_not_wait_for_is_answered_once(besiege: Besiege) -> None:
    client = await (await besiege()).client()
    await client.send(post(LENGTH, b"Expect: 100-continue", body=b"12345") + HONEST)
    raw = b""
    while not raw.endswith(b"/honest"):
        raw += await client.receive()
    assert raw.count(b"HTTP/1.1 100 Continue\r\n\r\n") == 1
    assert raw.count(b"HTTP/1.1 200 OK\r\n") == 2


# --- clients that take their time -------------------------------------------------------------------------------------


async def drip(client: RawClient, raw: bytes) -> None:
    """One byte after the other, until all are sent or nobody takes them any more."""
    for place in range(len(raw)):
        try:
            await client.send(raw[place : place + 1])
        except trio.BrokenResourceError:
            return
        await trio.sleep(BRIEF / 10)


@pytest.mark.parametrize(
    "begun",
    [b"GET / HTTP/1.1\r\nA: ", post(b"Content-Length: 1000"), post(CHUNKED, body=b"300\r\n"), post(CHUNKED)],
    ids=["head", "body", "chunk", "trailers"],
)
async def test_a_request_that_drips_is_cut_by_the_deadline(besiege: Besiege, begun: bytes) -> None:
    besieged = await besiege(Limits(request_timeout=BRIEF))
    client = await besieged.client()
    await client.send(begun)
    drops = b"0\r\n" + b"a: b\r\n" * 100 if begun.endswith(b"chunked\r\n\r\n") else b"a" * 600
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip, client, drops)
        await until(lambda: bool(besieged.server.statistics().overdue))
        nursery.cancel_scope.cancel()
    assert besieged.server.statistics().connections == 0
    assert besieged.seen == []
    assert await besieged.serves_the_next()


@pytest.mark.parametrize("sent", [0, 1, 5, 100])
async def test_a_handshake_that_stalls_is_cut(besiege: Besiege, sent: int) -> None:
    besieged = await besiege(Limits(handshake_timeout=BRIEF))
    client = await besieged.plain()
    await client.send(hello(besieged.context)[:sent])
    await until(lambda: bool(besieged.server.statistics().overdue))
    assert besieged.server.statistics().connections == 0
    assert await besieged.serves_the_next()


def hello(context: ssl.SSLContext) -> bytes:
    """What a client's handshake begins with."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_a_client_that_reads_no_answer_fills_no_memory_and_holds_up_nobody(besiege: Besiege) -> None:
    seen = 0

    def large(_request: Request, _peer: Peer) -> Response:
        nonlocal seen
        seen += 1
        return Response(200, b"a" * 100_000)

    besieged = await besiege(handler=large)
    client = await besieged.client()
    with trio.move_on_after(1.0):
        await client.send(HONEST * 2000)
    for _ in range(20):
        assert await besieged.serves_the_next()
    assert seen - 20 < 200, "it went on making answers that nobody takes"  # what the kernel holds, and a batch


async def test_a_client_that_reads_no_answer_is_cut(besiege: Besiege) -> None:
    def large(_request: Request, _peer: Peer) -> Response:
        return Response(200, b"a" * 4_000_000)

    besieged = await besiege(Limits(request_timeout=BRIEF), large)
    await (await besieged.client()).send(HONEST * 5)
    await until(lambda: bool(besieged.server.statistics().overdue))
    assert besieged.server.statistics().connections == 0


async def test_four_hundred_slow_and_idle_clients_hold_up_nobody(besiege: Besiege) -> None:
    besieged = await besiege(Limits(request_timeout=Seconds(60.0), handshake_timeout=Seconds(60.0)))
    kept = []
    for number in range(400):
        client = await (besieged.plain() if number % 4 == 0 else besieged.client())
        if number % 2:
            await client.send(b"GET /slow HTTP/1.1\r\n")
        elif number % 4:
            await client.send(HONEST)
            assert (await client.answer("GET"))[0] == 200
        kept.append(client)
    before = besieged.server.statistics()
    assert before.connections == 400
    answers = 0
    for _ in range(10):
        client = await besieged.client()
        for _ in range(20):
            await client.send(HONEST)
            answers += (await client.answer("GET"))[0] == 200
    after = besieged.server.statistics()
    assert answers == 200
    assert after.answered[200] - before.answered[200] == 200
    assert (after.overdue, after.handshakes_failed) == (0, 0)


# --- clients that leave -----------------------------------------------------------------------------------------------


async def test_a_client_that_has_ended_its_side_is_answered_still(besiege: Besiege) -> None:
    besieged = await besiege()
    client = await besieged.client()
    await client.send(HONEST)
    assert isinstance(client.stream, trio.SSLStream)
    await client.stream.transport_stream.send_eof()
    assert (await client.answer("GET"))[2] == b"/honest"
    assert await client.ended()


def reset(client: RawClient) -> None:
    """Leave without a word: RST in place of FIN."""
    stream = client.stream.transport_stream if isinstance(client.stream, trio.SSLStream) else client.stream
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("sent", [0, 1, 100])
async def test_a_reset_in_the_handshake_harms_nobody(besiege: Besiege, sent: int) -> None:
    besieged = await besiege()
    client = await besieged.plain()
    await client.send(hello(besieged.context)[:sent])
    await until(lambda: bool(besieged.server.statistics().accepted))
    reset(client)
    await until(lambda: not besieged.server.statistics().connections)
    assert await besieged.serves_the_next()


@pytest.mark.parametrize("begun", [b"", b"GET /", post(LENGTH, body=b"1"), post(CHUNKED, body=b"5\r\na"), HONEST * 500])
async def test_a_reset_in_a_request_harms_nobody(besiege: Besiege, begun: bytes) -> None:
    besieged = await besiege()
    client = await besieged.client()
    await client.send(HONEST)
    await client.answer("GET")
    await client.send(begun)
    reset(client)
    await until(lambda: not besieged.server.statistics().connections)
    assert besieged.server.statistics().handler_errors == 0
    assert await besieged.serves_the_next()


async def test_a_reset_while_its_answer_is_awaited_or_on_its_way_harms_nobody(besiege: Besiege) -> None:
    entered, released = trio.Event(), trio.Event()

    async def slow(request: Request, _peer: Peer) -> Response:
        if request.target == b"/slow":
            entered.set()
            await released.wait()
        return Response(200, b"a" * 1_000_000)

    besieged = await besiege(handler=slow)
    waiting, unread = await besieged.client(), await besieged.client()
    await waiting.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await unread.send(HONEST * 10)
    await entered.wait()
    for client in (waiting, unread):
        reset(client)
    released.set()
    await until(lambda: not besieged.server.statistics().connections)
    assert besieged.server.statistics().handler_errors == 0
    assert await besieged.serves_the_next()


# --- what is no TLS, or none that we speak ----------------------------------------------------------------------------


GARBAGE = {
    "plain HTTP": HONEST,
    "bytes": random.Random(1).randbytes(2000),  # noqa: S311 - any bytes
    "an SSL 2 hello": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x01\x00\x80" * 7 + b"a" * 16,
    "an oversized record": b"\x16\x03\x01\xff\xff" + b"\x01" * 4000,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x10" + b"a" * 16,
    "a hello of zeros": b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c" + b"\0" * 60,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_in_place_of_a_handshake_ends_that_connection(besiege: Besiege, garbage: bytes) -> None:
    besieged = await besiege()
    client = await besieged.plain()
    await client.send(garbage)
    await until(lambda: bool(besieged.server.statistics().handshakes_failed))
    assert besieged.server.statistics().connections == 0
    assert besieged.seen == []
    assert await besieged.serves_the_next()


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_after_the_handshake_ends_that_connection(besiege: Besiege, garbage: bytes) -> None:
    besieged = await besiege()
    client = await besieged.client()
    await client.send(HONEST)
    await client.answer("GET")
    assert isinstance(client.stream, trio.SSLStream)
    await client.stream.transport_stream.send_all(garbage)
    await until(lambda: not besieged.server.statistics().connections)
    assert besieged.seen == [b"/honest"]
    assert await besieged.serves_the_next()


async def is_shut_out(client: RawClient) -> bool:
    try:
        await client.send(HONEST)
        return not await client.receive()
    except (trio.BrokenResourceError, ssl.SSLError):
        return True


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_shut_out(besiege: Besiege, version: ssl.TLSVersion) -> None:
    besieged = await besiege()
    besieged.context.set_ciphers("ALL:@SECLEVEL=0")
    besieged.context.minimum_version = besieged.context.maximum_version = version
    assert await is_shut_out(await besieged.client())
    await until(lambda: bool(besieged.server.statistics().handshakes_failed))
    assert besieged.seen == []


@pytest.mark.parametrize(
    "cipher",
    [
        "AES128-SHA", "AES256-GCM-SHA384", "DHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-CCM",
    ],
)  # fmt: skip
async def test_ciphers_outside_the_profile_are_shut_out(besiege: Besiege, cipher: str) -> None:
    besieged = await besiege()
    besieged.context.maximum_version = ssl.TLSVersion.TLSv1_2
    besieged.context.set_ciphers(cipher)
    assert await is_shut_out(await besieged.client())
    await until(lambda: bool(besieged.server.statistics().handshakes_failed))


def reconnect(port: int, context: ssl.SSLContext) -> tuple[bool, bool]:
    """Ask twice, the second time with the first session. Returns (had a ticket, was resumed)."""
    session: ssl.SSLSession | None = None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
        ):
            secured.sendall(HONEST)
            secured.recv(1000)
            ticket, reused = session is not None and session.has_ticket, bool(secured.session_reused)
            session = secured.session
    return ticket, reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_is_resumed(besiege: Besiege, version: ssl.TLSVersion) -> None:
    besieged = await besiege()
    besieged.context.minimum_version = besieged.context.maximum_version = version
    assert await trio.to_thread.run_sync(reconnect, besieged.port, besieged.context) == (False, False)
    assert besieged.server.statistics().answered == {200: 2}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="only the openssl command can ask for a renegotiation")
async def test_a_renegotiation_is_refused(
    besiege: Besiege, authority: Authority, client_files: tuple[Path, Path]
) -> None:
    besieged = await besiege(Limits(idle_timeout=BRIEF))  # the command waits for ever for what is refused
    certificate, key = map(str, client_files)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{besieged.port}", "-CAfile", str(authority.file)]
    command += ["-cert", certificate, "-key", key, "-tls1_2"]
    run = await trio.run_process(command, stdin=b"R\n" + HONEST, capture_stdout=True, capture_stderr=True, check=False)
    assert b"RENEGOTIATING" in run.stdout + run.stderr
    assert b"200 OK" not in run.stdout
    assert besieged.seen == []
    assert await besieged.serves_the_next()


def no_record_holds(sealer: Sealer, number: int) -> bytes:
    return b"".join([sealer.record(APPLICATION_DATA, b"") for _ in range(number)])


def updates(sealer: Sealer, number: int) -> bytes:
    return b"".join([sealer.key_update() for _ in range(number)])


def updates_in_turn(sealer: Sealer, number: int) -> bytes:
    """The server shall answer each."""
    return b"".join([sealer.key_update(requested=True) for _ in range(number)])


@pytest.mark.parametrize("records", [no_record_holds, updates, updates_in_turn])
async def test_a_flood_of_records_without_content_ends_that_connection(
    besiege: Besiege, tmp_path: Path, records: Callable[[Sealer, int], bytes]
) -> None:
    """RFC 8446 sections 4.6.3 and 5.4: each costs the sender next to nothing. A few are in order."""
    besieged = await besiege()
    besieged.context.keylog_filename = str(tmp_path / "keys")
    client = await besieged.client()
    assert isinstance(client.stream, trio.SSLStream)
    await client.stream.do_handshake()
    sealer = Sealer(client.stream.cipher()[0], client_secret(tmp_path / "keys"))
    below = client.stream.transport_stream
    await below.send_all(records(sealer, 8) + sealer.record(APPLICATION_DATA, HONEST))
    assert (await client.answer("GET"))[0] == 200
    with contextlib.suppress(trio.BrokenResourceError):
        await below.send_all(records(sealer, 20_000))
    await until(lambda: not besieged.server.statistics().connections)
    assert besieged.seen == [b"/honest"]
    assert await besieged.serves_the_next()


async def test_a_trickle_of_key_updates_is_cut_off_like_a_flood(besiege: Besiege, tmp_path: Path) -> None:
    """Others are served meanwhile, and what the peer would have answered is not heaped up."""
    besieged = await besiege()
    besieged.context.keylog_filename = str(tmp_path / "keys")
    client = await besieged.client()
    assert isinstance(client.stream, trio.SSLStream)
    await client.stream.do_handshake()
    sealer = Sealer(client.stream.cipher()[0], client_secret(tmp_path / "keys"))
    sent = 0
    with contextlib.suppress(trio.BrokenResourceError):
        while sent < 2000:
            await client.stream.transport_stream.send_all(updates_in_turn(sealer, 20))
            assert await besieged.serves_the_next()
            sent += 20
    assert 500 < sent < 1000


# --- who was welcome once ---------------------------------------------------------------------------------------------


class MovableClock(SystemClock):
    """The machine's clock, some seconds ahead."""

    ahead = 0

    def now(self) -> UnixTime:
        return UnixTime(super().now() + self.ahead)


async def test_requests_after_the_certificate_has_expired_are_not_seen(
    nursery: trio.Nursery,
    dialler: Dialler,
    authority: Authority,
    credentials: Credentials,
    client_files: tuple[Path, Path],
) -> None:
    seen: list[bytes] = []

    def note(request: Request, _peer: Peer) -> Response:
        seen.append(request.target)
        return Response(200, b"")

    clock = MovableClock()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await nursery.start(partial(serve, note, [listening], credentials, SMALL, clock=clock))
    client = await dialler.dial(port, authority.client_context(client_files))
    await client.send(HONEST)
    await client.answer("GET")
    clock.ahead = 3 * 86_400
    await client.send(SMUGGLED * 3)
    assert await client.ended()
    assert seen == [b"/honest"]


async def test_a_participant_that_is_suspended_is_refused_on_its_open_connection(
    nursery: trio.Nursery, dialler: Dialler, tmp_path: Path, pki: Pki, published: bytes
) -> None:
    node = Node(tmp_path, pki, published, NOW)
    try:
        node.open()
        node.register("edp-1", Role.EDP)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        tls = Credentials(pki.server_certificate_file, pki.server_key_file, pki.ca_file)
        await nursery.start(partial(serve, node.endpoint, [listening], tls, SMALL, clock=node.clock))
        client = await dialler.dial(port, pki.client_context("edp-1"))
        told = []
        for suspended in (False, True, False):
            node.register("edp-1", Role.EDP, suspended=suspended)
            form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x"
            await client.send(b"POST /introspect HTTP/1.1\r\nHost: localhost\r\n" + form)
            status, _, body = await client.answer()
            told.append((status, body))
    finally:
        node.store.close()
    inactive = (200, b'{"active":false}')
    assert told == [inactive, (401, b'{"error":"invalid_client"}'), inactive]
