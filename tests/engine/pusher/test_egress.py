"""The one way out, against real servers on real TLS."""

import gc
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.clock import Seconds
from engine.consent.records import ClientId, Thumbprint
from engine.pusher.connections import Unreached
from engine.pusher.egress import KEPT, Address, Egress, EgressConfig
from engine.pusher.gate import Gate
from engine.pusher.replies import MAX_BODY, MAX_HEAD, ReplyReader
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.targets import BadTarget, Target, target_of
from tests.support.pki import Pki
from tests.support.push_receivers import ACCEPTED, Receiving, receiving

EDP = ClientId("edp-1")
SET = b"eyJ0eXAiOiJzZWNldmVudCtqd3QifQ.e30.c2ln"
# Short, so that what hangs costs the suite little; the product's own are asserted below.
CONFIG = EgressConfig(allow_private=True, connect=Seconds(1.0), whole=Seconds(1.5))


def thumbprint(pki: Pki) -> Thumbprint:
    return Thumbprint(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pki.server_certificate_file.read_text())).digest())


@pytest.fixture
def egress(pki: Pki) -> Iterator[Egress]:
    made = Egress(pki.client_context("pusher-1"), CONFIG)
    yield made
    made.close()


def target(pki: Pki, running: Receiving, *, host: str = "localhost", path: str = "/events") -> Target:
    return target_of(f"https://{host}:{running.port}{path}", frozenset((thumbprint(pki),)))


def answering(raw: bytes) -> Callable[[str, bytes], object]:
    async def answer(_path: str, _content: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return raw

    return answer


async def trouble(egress: Egress, where: Target) -> Trouble:
    with pytest.raises(Unreached) as caught:
        await egress.push(EDP, where, SET)
    return caught.value.trouble


def test_the_products_own_limits_are_two_and_five_seconds() -> None:
    assert (EgressConfig().connect, EgressConfig().whole, EgressConfig().allow_private) == (2.0, 5.0, False)


async def test_a_push_is_as_rfc_8935_says_and_connections_are_kept(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        for _ in range(5):
            assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert running.accepted == 1
        path, headers, content = running.requests[0]
        assert (path, content) == ("/events", SET)
        assert headers["host"] == f"localhost:{running.port}"
        assert headers["content-type"] == "application/secevent+jwt"
        assert headers["accept"] == "application/json"
        egress.close()


async def test_a_push_leaves_nothing_for_the_garbage_collector(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        where = target(pki, running)
        gc.collect()
        gc.disable()
        try:
            assert await egress.push(EDP, where, SET) == Reply(202)
            left = [one for one in gc.get_objects() if type(one) is ReplyReader]
        finally:
            gc.enable()
        assert not left
        egress.close()


async def test_another_receiver_has_connections_of_its_own(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        for client in ("edp-1", "edp-2", "edp-1", "edp-2"):
            await egress.push(ClientId(client), target(pki, running), SET)
        assert running.accepted == 2
        egress.close()
        assert egress.idle == 0


@pytest.mark.parametrize(
    ("raw", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Reply(200)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(204)),
        (b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n", Reply(302)),
        (b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Reply(503, retry_after="7")),
        (
            b'HTTP/1.1 400 X\r\nContent-Length: 42\r\n\r\n{"err":"invalid_key","description":"no key"}'[:-2],
            Reply(400, ""),
        ),
        (b'HTTP/1.1 400 X\r\nContent-Length: 21\r\n\r\n{"err":"invalid_key"}', Reply(400, "invalid_key")),
        (b"HTTP/1.1 400 X\r\nContent-Length: 5\r\n\r\n\xff\xfe<p>", Reply(400)),
        (b'HTTP/1.1 400 X\r\nContent-Length: 12005\r\n\r\n{"x":' + b"[" * 12_000, Reply(400)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 X\r\nContent-Length: 0\r\n\r\n", Reply(202)),
        (b"HTTP/1.1 202 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Reply(202)),
        (b"HTTP/1.1 202 X\r\nConnection: close\r\n\r\nuntil the end", Reply(202)),
    ],
)
async def test_answers_are_read(pki: Pki, egress: Egress, raw: bytes, reply: Reply) -> None:
    async with receiving(pki.server_context(), answering(raw)) as running:  # type: ignore[arg-type]  # an Answer
        for _ in range(2):
            assert await egress.push(EDP, target(pki, running), SET) == reply
        egress.close()


async def test_a_redirect_is_not_followed(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as other:
        raw = b"HTTP/1.1 307 X\r\nLocation: https://localhost:%d/\r\nContent-Length: 0\r\n\r\n" % other.port
        async with receiving(pki.server_context(), answering(raw)) as running:  # type: ignore[arg-type]  # an Answer
            assert (await egress.push(EDP, target(pki, running), SET)).status == 307
            egress.close()
        assert other.accepted == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 202",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 202 X\r\nA: " + b"a" * (MAX_HEAD + 10),
    ],
    ids=["nonsense", "nothing", "half a line", "another protocol", "huge head"],
)
async def test_what_is_no_answer_is_broken(pki: Pki, egress: Egress, raw: bytes) -> None:
    async def answer(_path: str, _content: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return raw + b"\r\nconnection: close" if raw.endswith(b"202") else raw

    async with receiving(pki.server_context(), answer) as running:
        found = await trouble(egress, target(pki, running))
        assert found in (Trouble.BROKEN, Trouble.TIMEOUT)
        assert egress.idle == 0


async def test_a_huge_answer_is_cut_off_and_its_head_counts(pki: Pki, egress: Egress) -> None:
    huge = b"HTTP/1.1 202 X\r\nContent-Length: 99999999\r\n\r\n" + b"a" * (4 * MAX_BODY)
    async with receiving(pki.server_context(), answering(huge)) as running:  # type: ignore[arg-type]  # an Answer
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert egress.idle == 0, "the rest of it would be taken for the next answer"


async def test_what_comes_behind_an_answer_is_not_taken_for_the_next(pki: Pki, egress: Egress) -> None:
    raw = ACCEPTED + b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"
    async with receiving(pki.server_context(), answering(raw)) as running:  # type: ignore[arg-type]  # an Answer
        for _ in range(3):
            assert await egress.push(EDP, target(pki, running), SET) == Reply(202)


async def test_an_answer_that_broke_off_is_not_the_beginning_of_another_connections(pki: Pki, egress: Egress) -> None:
    raws = [
        ACCEPTED,
        b"HTTP/1.1 202 X\r\nConnection: close\r\nX-Broken-Off: ",
        b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
    ]

    async def answer(_path: str, _content: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return raws.pop(0)

    async with receiving(pki.server_context(), answer) as running:
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert await egress.push(EDP, target(pki, running), SET) == Reply(503), "the head of the one before was its own"
        egress.close()


async def test_an_answer_to_nothing_that_came_in_one_piece_with_another_is_not_taken(pki: Pki, egress: Egress) -> None:
    """Each in a TLS record of its own: the first is read, and the second is here but unread."""
    asked = 0

    async def answer(_path: str, _content: bytes) -> bytes:
        nonlocal asked
        await trio.lowlevel.checkpoint()
        asked += 1
        return ACCEPTED if asked == 1 else b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"

    async with receiving(pki.server_context(), answer, repeats=True) as running:
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert (await egress.push(EDP, target(pki, running), SET)).status == 503
        egress.close()


async def test_a_server_that_says_nothing_costs_the_whole_time_and_no_more(pki: Pki, egress: Egress) -> None:
    async def sleep(_path: str, _content: bytes) -> bytes:
        await trio.sleep(30)
        return b""

    async with receiving(pki.server_context(), sleep) as running:
        begun = trio.current_time()
        assert await trouble(egress, target(pki, running)) is Trouble.TIMEOUT
        assert trio.current_time() - begun < 10


async def test_an_answer_whose_content_never_ends_counts(pki: Pki, egress: Egress) -> None:
    raw = b"HTTP/1.1 202 X\r\nContent-Length: 10\r\n\r\nabc"
    async with receiving(pki.server_context(), answering(raw)) as running:  # type: ignore[arg-type]  # an Answer
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert egress.idle == 0


async def test_a_server_that_never_shakes_hands_is_given_up_when_connecting(pki: Pki, egress: Egress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = target_of(f"https://localhost:{mute.getsockname()[1]}/", frozenset((thumbprint(pki),)))
        assert await trouble(egress, where) is Trouble.TIMEOUT


async def test_nobody_listens(pki: Pki, egress: Egress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    where = target_of(f"https://127.0.0.1:{port}/", frozenset((thumbprint(pki),)))
    assert await trouble(egress, where) is Trouble.CONNECT


async def test_a_certificate_that_the_directory_does_not_have_is_refused(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        where = target_of(f"https://localhost:{running.port}/", frozenset((Thumbprint(bytes(32)),)))
        assert await trouble(egress, where) is Trouble.CERTIFICATE
        assert running.requests == []


async def test_a_certificate_that_is_taken_out_of_the_directory_ends_the_connection_that_is_kept(
    pki: Pki, egress: Egress
) -> None:
    async with receiving(pki.server_context()) as running:
        good = target(pki, running)
        await egress.push(EDP, good, SET)
        assert egress.idle == 1
        where = target_of(f"https://localhost:{running.port}/events", frozenset((Thumbprint(bytes(32)),)))
        assert await trouble(egress, where) is Trouble.CERTIFICATE
        assert len(running.requests) == 1


async def test_another_name_than_the_certificates_is_refused(pki: Pki) -> None:
    async def resolve(_host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [(int(socket.AF_INET), ("127.0.0.1", port))]

    egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve)
    async with receiving(pki.server_context()) as running:
        assert await trouble(egress, target(pki, running, host="receiver.example")) is Trouble.TLS
        assert running.requests == []


async def test_another_authority_is_refused(pki: Pki, tmp_path: Path) -> None:
    stranger = Pki(tmp_path)
    egress = Egress(stranger.client_context("pusher-1"), CONFIG)
    async with receiving(pki.server_context()) as running:
        assert await trouble(egress, target(pki, running)) is Trouble.TLS


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "0.0.0.0", "::ffff:8.8.8.8", "::1"])  # noqa: S104 - nothing is bound
async def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(pki: Pki, address: str) -> None:
    family = int(socket.AF_INET6 if ":" in address else socket.AF_INET)

    async def resolve(_host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [(int(socket.AF_INET), ("8.8.8.8", port)), (family, (address, port))]

    egress = Egress(pki.client_context("pusher-1"), EgressConfig(), resolve=resolve)
    async with receiving(pki.server_context()) as running:
        assert await trouble(egress, target(pki, running)) is Trouble.ADDRESS
        assert running.accepted == 0


async def test_a_name_is_resolved_once_for_a_connection_and_pinned(pki: Pki) -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        asked.append(host)
        return [(int(socket.AF_INET), ("127.0.0.1", port))]

    egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve)
    async with receiving(pki.server_context()) as running:
        for _ in range(3):
            await egress.push(EDP, target(pki, running), SET)
        assert asked == ["localhost"]
        egress.close()


@contextmanager
def swallowing() -> Iterator[Address]:
    """An address of this machine that answers no attempt to connect: its queue is full, and nobody takes from it."""
    with socket.socket() as full, ExitStack() as kept:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            queued = kept.enter_context(socket.socket())
            queued.settimeout(0)
            queued.connect_ex(full.getsockname())
        yield int(socket.AF_INET), full.getsockname()


@contextmanager
def mute() -> Iterator[Address]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(socket.AF_INET), listening.getsockname()


@contextmanager
def refusing() -> Iterator[Address]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(socket.AF_INET), bound.getsockname()


@pytest.mark.parametrize("first", [swallowing, mute, refusing])
async def test_a_second_address_is_tried_while_the_first_says_nothing(
    pki: Pki, first: Callable[[], AbstractContextManager[Address]]
) -> None:
    """Under the product's own limits: a second and a half is left of the two for connecting."""
    with first() as bad:

        async def resolve(_host: str, port: int) -> list[Address]:
            await trio.lowlevel.checkpoint()
            return [bad, (int(socket.AF_INET), ("127.0.0.1", port))]

        egress = Egress(pki.client_context("pusher-1"), EgressConfig(allow_private=True), resolve=resolve)
        async with receiving(pki.server_context()) as running:
            assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
            assert running.accepted == 1
            egress.close()


async def test_a_name_all_of_whose_addresses_swallow_is_given_up_when_connecting(pki: Pki) -> None:
    with swallowing() as bad:

        async def resolve(_host: str, _port: int) -> list[Address]:
            await trio.lowlevel.checkpoint()
            return [bad, bad, bad]

        egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve)
        where = target_of(f"https://localhost:{bad[1][1]}/", frozenset((thumbprint(pki),)))
        assert await trouble(egress, where) is Trouble.TIMEOUT


async def test_a_name_that_does_not_resolve(pki: Pki) -> None:
    async def resolve(_host: str, _port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(-2, "Name or service not known")

    egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve)
    where = target_of("https://nowhere.example/", frozenset())
    assert await trouble(egress, where) is Trouble.NAME


async def test_a_connection_that_the_server_has_closed_is_not_missed(pki: Pki, egress: Egress) -> None:
    raw = b"HTTP/1.1 202 X\r\nContent-Length: 0\r\n\r\n"
    calls = 0

    async def answer(_path: str, _content: bytes) -> bytes:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        return b"" if calls == 2 else raw  # the second request on the first connection is dropped

    async with receiving(pki.server_context(), answer) as running:
        for _ in range(2):
            assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert running.accepted == 2
        egress.close()


async def test_what_swallows_one_push_is_not_given_the_next(pki: Pki, egress: Egress) -> None:
    """A firewall that has lost its state swallows what comes on every connection of before, and says nothing."""
    both_there, swallows = trio.Event(), False

    async def answer(_path: str, _content: bytes) -> bytes:
        if len(running.requests) == 2:
            both_there.set()
        await both_there.wait()
        if swallows:
            await trio.sleep_forever()
        return ACCEPTED

    async with receiving(pki.server_context(), answer) as running:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(egress.push, EDP, target(pki, running), SET)
        assert egress.idle == running.accepted == 2
        swallows = True
        assert await trouble(egress, target(pki, running)) is Trouble.TIMEOUT
        swallows = False
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        assert running.accepted == 3
        egress.close()


async def test_new_credentials_are_shown_by_the_next_push(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        await egress.push(EDP, target(pki, running), SET)
        egress.reload(pki.client_context("pusher-2"))
        await egress.push(EDP, target(pki, running), SET)
        assert running.accepted == 2
        egress.close()


async def test_what_waits_behind_handshakes_loses_none_of_its_time(pki: Pki) -> None:
    """Two connections at once here, and eight receivers whose handshakes take half of the time that one may."""

    async def resolve(_host: str, port: int) -> list[Address]:
        await trio.sleep(CONFIG.connect / 2)
        return [(int(socket.AF_INET), ("127.0.0.1", port))]

    gate = Gate(places=2, longest=CONFIG.whole)
    egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve, gate=gate)
    replies: list[Reply] = []

    async def push(number: int) -> None:
        replies.append(await egress.push(ClientId(f"edp-{number}"), where, SET))

    async with receiving(pki.server_context()) as running:
        where = target(pki, running)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(push, number)
        assert replies == [Reply(202)] * 8
        egress.close()


async def test_an_attempt_begins_when_it_is_let_in_and_once(pki: Pki) -> None:
    """Also where a kept connection turns out to be closed and another is opened."""
    let_in = trio.Event()

    async def resolve(_host: str, port: int) -> list[Address]:
        await let_in.wait()
        return [(int(socket.AF_INET), ("127.0.0.1", port))]

    egress = Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve, gate=Gate(places=1, longest=Seconds(60.0)))
    begun: list[str] = []
    drops = False

    async def answer(_path: str, _content: bytes) -> bytes:
        nonlocal drops
        await trio.lowlevel.checkpoint()
        drop, drops = drops, False
        return b"" if drop else ACCEPTED

    async def push(name: str) -> None:
        await egress.push(ClientId(name), where, SET, begun=lambda: begun.append(name))

    async with receiving(pki.server_context(), answer) as running:
        where = target(pki, running)
        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(push, name)
                await trio.testing.wait_all_tasks_blocked()
            assert begun == ["first"]
            let_in.set()
        assert begun == ["first", "second"]
        await push("first")
        assert begun == ["first", "second", "first"]
        drops = True
        await push("first")
        assert begun == ["first", "second", "first", "first"]
        egress.close()


async def test_a_receiver_that_is_slow_has_all_its_places_all_the_same(pki: Pki, egress: Egress) -> None:
    all_there = trio.Event()

    async def answer(_path: str, _content: bytes) -> bytes:
        if len(running.requests) == KEPT:
            all_there.set()
        await all_there.wait()
        return ACCEPTED

    async with receiving(pki.server_context(), answer) as running:
        async with trio.open_nursery() as nursery:
            for _ in range(KEPT):
                nursery.start_soon(egress.push, EDP, target(pki, running), SET)
        assert running.accepted == KEPT
        egress.close()


async def test_calls_that_are_cancelled_anywhere_leave_nothing_behind(pki: Pki, egress: Egress) -> None:
    async with receiving(pki.server_context()) as running:
        for n in range(60):
            with trio.move_on_after(n * 0.0002):
                await egress.push(EDP, target(pki, running), SET)
        assert await egress.push(EDP, target(pki, running), SET) == Reply(202)
        egress.close()
        assert egress.idle == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver.example/",
        "https://user@receiver.example/",
        "https://user:secret@receiver.example/",
        "https://receiver.example/#part",
        "https://",
        "https://receiver.example:99999/",
        "https://receiver.example/a b",
        "https://receiver.example/\r\nX: y",
        "https://rec\u00e9iver.example/",
        "ftp://receiver.example/",
    ],
)
def test_addresses_that_are_never_called(url: str) -> None:
    try:
        made = target_of(url, frozenset())
    except BadTarget:
        return
    assert b"\r\nX:" not in made.head
    assert made.head.startswith(b"POST /")
    assert "\r" in url, "the standard library takes line ends out of an address"
