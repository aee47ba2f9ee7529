"""What goes wrong on the wire becomes one of four faults, and cancelling a call costs nothing."""

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from admin.ledger.sql import SqlLedger
from engine.clock import Seconds
from engine.config import BadConfig, Feed
from engine.feed.entries import Position, unseal
from engine.feed.feed_tls import feed_tls
from engine.feed.frames import frame
from engine.feed.https import FeedBroken, FeedClient, FeedForbidden, FeedUnavailable, WrongIncarnation
from tests.support.feed_services import RunningService, feed_service, question
from tests.support.pki import Pki
from tests.support.projection import MAC_KEY, append_all, new_consents, real_ledger

# httpx2 leaves its own generators to the collector when a body is not read to its end; the connection is closed.
LEFT_EARLY = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
AT = Position("a" * 16, 5)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with real_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
async def service(ledger: SqlLedger, pki: Pki) -> AsyncIterator[RunningService]:
    async with feed_service(ledger, pki) as running:
        yield running


@asynccontextmanager
async def answering(pki: Pki, raw: bytes) -> AsyncIterator[FeedClient]:
    """A client of a server that sends these bytes to whoever asks, and hangs up."""

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some(65_536)
            await stream.send_all(raw)
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    listeners = await trio.open_ssl_over_tcp_listeners(0, pki.server_context(), host="127.0.0.1", https_compatible=True)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, handle, listeners))
        client = FeedClient(f"https://localhost:{port}/feed/", pki.client_context("node-1"))
        yield client
        await client.aclose()
        nursery.cancel_scope.cancel()


def response(status: int, body: bytes = b"", length: int | None = None) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body) if length is None else length) + body


async def read_snapshot(client: FeedClient) -> list[bytes]:
    async with client.snapshot() as entries:
        return [sealed async for sealed in entries]


CALLS: dict[str, Callable[[FeedClient], Awaitable[object]]] = {
    "snapshot": read_snapshot,
    "entries": lambda client: client.entries(AT, Seconds(0.0)),
    "check": lambda client: client.check(question()),
    "keys": lambda client: client.keys(),
    "report": lambda client: client.report("key-0001", b"[]"),
    "claim": lambda client: client.claim("c", "edp-1", "share"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (409, WrongIncarnation),
        (401, FeedForbidden),
        (403, FeedForbidden),
        (400, FeedBroken),
        (404, FeedBroken),
        (302, FeedBroken),
        (429, FeedUnavailable),
        (500, FeedUnavailable),
        (503, FeedUnavailable),
    ],
)
async def test_a_refusal_is_a_fault_of_its_kind(pki: Pki, call: str, status: int, fault: type[Exception]) -> None:
    async with answering(pki, response(status, b"{}")) as client:
        with pytest.raises(fault):
            await CALLS[call](client)


@pytest.mark.parametrize(
    ("call", "raw", "fault"),
    [
        ("snapshot", response(200, frame(b"whole") + b"\x00\x00\x00\x09cut"), FeedBroken),
        ("snapshot", response(200, b"\xff\xff\xff\xff"), FeedBroken),
        ("snapshot", response(200, frame(b"whole"), length=500), FeedUnavailable),
        ("entries", response(200, frame(b"whole"), length=500), FeedUnavailable),
        ("check", response(200, b"nonsense"), FeedBroken),
        ("check", response(200, b'{"incarnation": 1}'), FeedBroken),
        ("claim", response(200, b'{"held": "yes"}'), FeedBroken),
        ("keys", b"not HTTP at all\r\n\r\n", FeedUnavailable),
        ("keys", b"", FeedUnavailable),
    ],
    ids=[
        "frame cut", "frame too long", "body cut", "entries cut", "no JSON", "another JSON", "another type", "no HTTP",
        "hung up",
    ],
)  # fmt: skip
@LEFT_EARLY
async def test_what_cannot_be_read_is_a_fault(pki: Pki, call: str, raw: bytes, fault: type[Exception]) -> None:
    async with answering(pki, raw) as client:
        with pytest.raises(fault):
            await CALLS[call](client)


async def test_nobody_listening_is_unavailable(pki: Pki) -> None:
    client = FeedClient("https://localhost:1/feed", pki.client_context("node-1"))
    with pytest.raises(FeedUnavailable):
        await client.keys()
    await client.aclose()


async def test_without_a_certificate_there_is_no_answer(service: RunningService, pki: Pki) -> None:
    client = FeedClient(service.url, pki.client_context())
    with pytest.raises(FeedUnavailable):
        await client.keys()
    await client.aclose()


async def test_a_service_with_a_foreign_certificate_is_not_believed(service: RunningService) -> None:
    context = ssl.create_default_context()  # the machine's authorities, not ours
    client = FeedClient(service.url, context)
    with pytest.raises(FeedUnavailable):
        await client.keys()
    await client.aclose()


async def test_another_authority_holds_for_the_next_call_although_a_connection_is_open(
    service: RunningService, pki: Pki
) -> None:
    client = FeedClient(service.url, pki.client_context("node-1"))
    assert await client.keys()
    await client.renew(ssl.create_default_context())
    with pytest.raises(FeedUnavailable):
        await client.keys()
    await client.renew(pki.client_context("node-1"))
    assert await client.keys()
    await client.aclose()


async def test_settings_make_a_client(service: RunningService, pki: Pki, tmp_path: Path) -> None:
    files = pki.client("node-1")
    settings = Feed(
        url=service.url,
        ca_file=pki.ca_file,
        certificate_file=files.certificate_file,
        key_file=files.key_file,
        mac_key_files=(),
        meter_key_file=tmp_path,
    )
    client = FeedClient(settings.url, feed_tls(settings))
    assert b"jwks" in await client.keys()
    await client.aclose()


async def test_settings_without_their_files_are_said_so(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    settings = Feed(
        url="https://localhost:1/feed",
        ca_file=absent,
        certificate_file=absent,
        key_file=absent,
        mac_key_files=(),
        meter_key_file=absent,
    )
    with pytest.raises(BadConfig, match="cannot be read"):
        feed_tls(settings)


@LEFT_EARLY
@pytest.mark.parametrize("seed", range(4))
async def test_calls_cancelled_anywhere_cost_nothing(ledger: SqlLedger, service: RunningService, seed: int) -> None:
    """More calls are cancelled than the pool has places; then all the calls there may be at once still go through."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    await append_all(ledger, new_consents(50))
    head = (await ledger.head()).position
    async with service.client() as client:

        async def give_up() -> None:
            with trio.move_on_after(chance.choice((0.0, 0.002, 0.005, 0.01, 0.03)) * chance.random()):
                calls = (client.keys, partial(client.entries, head, Seconds(5.0)), partial(read_snapshot, client))
                await chance.choice(calls)()

        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(give_up)
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(client.keys)
        assert len(await read_snapshot(client)) > 50


@LEFT_EARLY
async def test_a_reader_may_leave_a_snapshot_early(ledger: SqlLedger, service: RunningService) -> None:
    await append_all(ledger, new_consents(3_000))
    async with service.client() as client:
        for _ in range(20):  # more often than there are places in the pool
            async with client.snapshot() as entries:
                async for sealed in entries:
                    assert unseal(sealed, (MAC_KEY,)).key == b"snapshot-begin"
                    break
        assert await client.keys()


async def test_a_closed_client_opens_again(service: RunningService) -> None:
    async with service.client() as client:
        await client.keys()
        await client.aclose()
        assert await client.keys()
