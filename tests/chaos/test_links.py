"""Links break as they say, and are whole again afterwards: by a real echo server behind each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from admin.cli.free_ports import free_ports
from tests.chaos.links import LONGEST_DELAY, LOOPBACK, Link
from tests.chaos.plan import Fault, What

SOON = 20.0
NOT_YET = 0.3  # seconds in which something that must not come would have come


def fault(what: What) -> Fault:
    return Fault(1, 0.0, 1.0, what, "a > b", 0.25)


@pytest.fixture
async def link(nursery: trio.Nursery) -> Link:
    """A link to an echo server."""
    listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, echo, 0, host=LOOPBACK))
    (port,) = free_ports(LOOPBACK, 1)
    made = Link("a > b", port, listeners[0].socket.getsockname()[1], lambda: 0.01)
    await nursery.start(made.run)
    return made


async def echo(stream: trio.SocketStream) -> None:
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[trio.SocketStream]:
    with trio.fail_after(SOON):
        async with await trio.open_tcp_stream(LOOPBACK, link.port) as stream:
            yield stream


async def said_back(stream: trio.SocketStream, data: bytes = b"hello") -> bytes:
    await stream.send_all(data)
    received = b""
    while len(received) < len(data) and (more := await stream.receive_some()):
        received += more
    return received


async def test_a_whole_link_passes_everything_and_the_end(link: Link) -> None:
    async with connected(link) as stream:
        assert await said_back(stream, b"x" * 300_000) == b"x" * 300_000
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def test_a_refusing_link_resets_what_is_open_and_takes_nothing_new(link: Link) -> None:
    async with connected(link) as stream:
        assert await said_back(stream) == b"hello"
        link.apply(fault(What.REFUSE))
        with pytest.raises(trio.BrokenResourceError):
            await said_back(stream)
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(LOOPBACK, link.port)
    link.restore()
    await trio.testing.wait_all_tasks_blocked()
    async with connected(link) as stream:
        assert await said_back(stream) == b"hello"


@pytest.mark.parametrize("what", [What.BLACK_HOLE, What.DEAFEN])
async def test_what_is_swallowed_arrives_at_the_end_on_the_same_connection(link: Link, what: What) -> None:
    async with connected(link) as stream:
        assert await said_back(stream) == b"hello"
        link.apply(fault(what))
        with trio.move_on_after(NOT_YET) as waited:
            await said_back(stream)
        assert waited.cancelled_caught
        link.restore()
        assert await stream.receive_some() == b"hello"


async def test_a_connection_is_cut_off_in_the_middle(link: Link) -> None:
    async with connected(link) as stream:
        assert await said_back(stream) == b"hello"
        link.apply(fault(What.CUT))
        received = b""
        with suppress(trio.BrokenResourceError):
            while len(received) < 1_000:
                received += await said_back(stream, b"y" * 100)
        assert len(received) < 1_000


async def test_a_delayed_link_takes_its_time(link: Link) -> None:
    async with connected(link) as stream:
        assert await said_back(stream) == b"hello"
        link.apply(fault(What.DELAY))
        began = trio.current_time()
        assert await said_back(stream) == b"hello"
        assert trio.current_time() - began >= LONGEST_DELAY / 4


async def test_a_link_to_nobody_ends_its_connections(nursery: trio.Nursery) -> None:
    port, nobody = free_ports(LOOPBACK, 2)
    link = Link("a > b", port, nobody, lambda: 0.0)
    await nursery.start(link.run)
    async with connected(link) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
