"""What answers in a node's place, behind a link that leads there for a while."""

import ssl
from pathlib import Path

import pytest
import trio

from admin.cli.free_ports import free_ports
from admin.pki.authority import Authority
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.telemetry.host import SystemClock
from tests.chaos.calls import BrokenOff, Caller
from tests.chaos.doors import BODY, answer_to, serve
from tests.chaos.links import Link
from tests.chaos.plan import DOOR_FAULTS, Fault, What

SOON = 20.0


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server and of a client that know each other."""
    now = UnixTime(SystemClock().now())
    authority = Authority.create(folder, now)
    authority.issue_server(now).write(folder / "server.pem", folder / "server.key")
    authority.issue_client(ClientId("edp-1"), now).write(folder / "edp-1.pem", folder / "edp-1.key")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client.load_cert_chain(folder / "edp-1.pem", folder / "edp-1.key")
    return server, client


def test_an_answer_repeats_the_name_of_its_question() -> None:
    said = answer_to(b"POST /introspect HTTP/1.1\r\nHost: x\r\nX-Request-ID: abc", What.TOO_MANY)
    assert said.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nX-Request-ID: abc\r\n" in said
    assert said.endswith(b"\r\n\r\n" + BODY)
    assert b"X-Request-ID" not in answer_to(b"GET / HTTP/1.1", What.UNAVAILABLE)


async def test_a_link_leads_there_while_it_is_broken_so_and_away_at_once(nursery: trio.Nursery, tmp_path: Path) -> None:
    server, client = contexts(tmp_path)
    ports = free_ports("127.0.0.1", 3)
    for what, port in zip((What.TOO_MANY, *DOOR_FAULTS), ports, strict=False):
        await nursery.start(serve, what, port, server)  # the first stands for the node itself
    link = Link("edps > node-1", free_ports("127.0.0.1", 1)[0], ports[0], lambda: 0.5)
    link.doors = {What.UNAVAILABLE: ports[1]}
    await nursery.start(link.run)
    with trio.fail_after(SOON):
        before = await Caller.reach(link.port, client)
        assert [(await before.call("POST", "/introspect", b"token=1")).status for _ in range(2)] == [429, 429]
        link.apply(Fault(1, 0.0, 1.0, What.UNAVAILABLE, link.name, 0.5))
        with pytest.raises(BrokenOff):
            await before.call("POST", "/introspect", b"token=2")
        meanwhile = await Caller.reach(link.port, client)
        assert (await meanwhile.call("POST", "/introspect", b"token=3")).status == 503
        link.restore()
        with pytest.raises(BrokenOff):
            await meanwhile.call("POST", "/introspect", b"token=4")
        after = await Caller.reach(link.port, client)
        assert (await after.call("POST", "/introspect", b"token=5")).status == 429
        for caller in (before, meanwhile, after):
            await caller.abandon()
