"""Clients from settings: over TLS with our authority only, with the password from its file."""

import contextlib
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.config import BadConfig, Redis
from engine.feed.redis_access import RedisAccess
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import get, put
from engine.feed.redis_faults import RedisUnavailable
from engine.feed.topology import BadRedisAddress
from tests.support.pki import Pki
from tests.support.valkey import PATIENCE, Valkey


def access(**settings: object) -> RedisAccess:
    return RedisAccess(Redis(**settings), jitter=lambda: 0.0)


async def serve_tls_in_front(
    valkey: Valkey, context: ssl.SSLContext, host: str, *, task_status: trio.TaskStatus[int]
) -> None:
    """The bundled server speaks no TLS: end it here and pass the bytes on."""

    async def pass_on(arrived: trio.SocketStream) -> None:
        outer = trio.SSLStream(arrived, context, server_side=True)
        inner = await trio.open_unix_socket(valkey.url.removeprefix("unix://"))
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with outer, inner, trio.open_nursery() as both:
                both.start_soon(copy, outer, inner, both)
                both.start_soon(copy, inner, outer, both)

    async def copy(source: trio.abc.ReceiveStream, target: trio.abc.SendStream, both: trio.Nursery) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                await target.send_all(data)
        both.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, pass_on, 0, host=host))
        task_status.started(listeners[0].socket.getsockname()[1])


@pytest.fixture
def server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server_certificate_file, pki.server_key_file)
    return context


@pytest.fixture
async def tls_port(valkey: Valkey, server_context: ssl.SSLContext, nursery: trio.Nursery) -> int:
    return await nursery.start(serve_tls_in_front, valkey, server_context, "127.0.0.1")


async def started(client: RedisClient, nursery: trio.Nursery) -> RedisClient:
    with trio.fail_after(PATIENCE):
        await nursery.start(client.run)
    return client


async def test_commands_and_big_values_pass_over_tls(
    tls_port: int, pki: Pki, valkey: Valkey, nursery: trio.Nursery
) -> None:
    client = await started(access(url=f"rediss://localhost:{tls_port}", ca_file=pki.ca_file).client("n"), nursery)
    big = bytes(range(256)) * 4096
    await put(client, b"{ccs}:tls", big)
    assert await get(client, b"{ccs}:tls") == big
    assert valkey.call("GET", b"{ccs}:tls") == big


async def test_a_server_of_another_authority_is_not_spoken_to(tls_port: int, nursery: trio.Nursery) -> None:
    client = await started(access(url=f"rediss://localhost:{tls_port}").client("n"), nursery)
    assert client.statistics().last_fault == f"cannot reach Redis at rediss://localhost:{tls_port}"
    with pytest.raises(RedisUnavailable):
        await get(client, b"x")


async def test_a_certificate_for_another_name_is_not_taken(
    valkey: Valkey, server_context: ssl.SSLContext, pki: Pki, nursery: trio.Nursery
) -> None:
    """The certificate names 127.0.0.1 and not this other loopback address."""
    port = await nursery.start(serve_tls_in_front, valkey, server_context, "127.0.0.2")
    client = await started(access(url=f"rediss://127.0.0.2:{port}", ca_file=pki.ca_file).client("n"), nursery)
    assert client.statistics().last_fault == f"cannot reach Redis at rediss://127.0.0.2:{port}"


async def test_the_password_comes_from_its_file(valkey: Valkey, tmp_path: Path, nursery: trio.Nursery) -> None:
    valkey.call("ACL", "SETUSER", "projector", "on", ">from-a-file", "~*", "+@all")
    (tmp_path / "password").write_text("from-a-file\n")
    settings = {"url": valkey.url, "username": "projector", "password_file": tmp_path / "password"}
    client = await started(access(**settings).client("n"), nursery)
    assert await client.execute("ACL", "WHOAMI") == b"projector"


async def test_a_subscription_is_made_from_the_same_settings(valkey: Valkey, nursery: trio.Nursery) -> None:
    made = access(url=valkey.url)
    asked = made.subscription("hints", [b"{ccs}:asked"])
    await started(asked, nursery)
    with trio.fail_after(PATIENCE):
        assert await asked.next_hint() == b""
        valkey.call("PUBLISH", "{ccs}:asked", "node-1")
        assert await asked.next_hint() == b"node-1"


def test_secrets_that_cannot_be_read_are_told_by_their_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="missing"):
        access(url="unix:///x", password_file=tmp_path / "missing")
    with pytest.raises(BadConfig, match="missing"):
        access(url="rediss://localhost", ca_file=tmp_path / "missing")


def test_a_bad_address_is_told_before_anything_runs() -> None:
    with pytest.raises(BadRedisAddress):
        access(url="sentinel://ccs")
