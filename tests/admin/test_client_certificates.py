"""The client's certificate reaches the application, over HTTP/1.1 and HTTP/2, on real TLS sockets."""

import contextlib
import http.client
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import msgspec
import pytest
import trio

from admin import client_certificates
from admin.client_certificates import client_certificate, hypercorn_settings, serve, thumbprint_of
from admin.edge import answer, edge_app, read_json
from admin.listeners import CannotListen, listen, port_of, tls_context
from engine.config import Tls
from tests.support.pki import Pki

Scopes = list[dict[str, Any]]


class Thing(msgspec.Struct):
    name: str


def tls_of(pki: Pki) -> Tls:
    return Tls(certificate_file=pki.server_certificate_file, key_file=pki.server_key_file, client_ca_file=pki.ca_file)


def recording(scopes: Scopes, *, wait: trio.Event | None = None, status: int = 200) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        scopes.append(scope)
        if scope["path"] == "/slow" and wait is not None:
            await wait.wait()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


@asynccontextmanager
async def serving(app: Any, pki: Pki, *, client_certificates: bool = True) -> AsyncIterator[tuple[int, trio.Event]]:
    stop = trio.Event()
    listeners = await listen("127.0.0.1", 0)
    context = tls_context(tls_of(pki), client_certificates=client_certificates)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, listeners, context, stop=stop))
        yield port_of(listeners), stop
        stop.set()


def client(pki: Pki, client_id: str | None, *, http2: bool = False, **settings: Any) -> httpx2.AsyncClient:
    settings.setdefault("timeout", 30.0)
    return httpx2.AsyncClient(verify=pki.client_context(client_id), http2=http2, http1=not http2, **settings)


async def read_to_end(stream: trio.SocketStream) -> bytes:
    read = b""
    try:
        while more := await stream.receive_some():
            read += more
    except trio.BrokenResourceError:
        pass  # a reset is an end too
    return read


async def wait_refused(port: int) -> None:
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            return


@pytest.mark.parametrize("http2", [False, True])
async def test_the_certificate_is_in_the_scope_of_every_request(pki: Pki, http2: bool) -> None:
    scopes: Scopes = []
    async with serving(recording(scopes), pki) as (port, _), client(pki, "atp-1", http2=http2) as http:
        for _ in range(2):
            response = await http.get(f"https://localhost:{port}/")
            assert (response.status_code, response.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
    assert len(scopes) == 2
    for scope in scopes:
        der = client_certificate(scope)
        assert der is not None
        assert thumbprint_of(der) == pki.client("atp-1").certificate.thumbprint


async def test_the_extension_has_the_members_of_the_asgi_document(pki: Pki) -> None:
    scopes: Scopes = []
    async with serving(recording(scopes), pki) as (port, _), client(pki, "atp-1") as http:
        await http.get(f"https://localhost:{port}/")
    tls = scopes[0]["extensions"]["tls"]
    assert ssl.PEM_cert_to_DER_cert(tls["client_cert_chain"][0]) == client_certificate(scopes[0])
    assert "CN=atp-1" in tls["client_cert_name"]
    assert tls["client_cert_error"] is None
    assert tls["tls_version"] == 0x0304
    assert 0x1301 <= tls["cipher_suite"] <= 0x1303


async def test_tls_1_2_is_told_with_its_suite(pki: Pki) -> None:
    scopes: Scopes = []
    context = pki.client_context("atp-1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(recording(scopes), pki) as (port, _), httpx2.AsyncClient(verify=context, timeout=30.0) as http:
        await http.get(f"https://localhost:{port}/")
    tls = scopes[0]["extensions"]["tls"]
    assert tls["tls_version"] == 0x0303
    assert tls["cipher_suite"] in {0xC02B, 0xC02C}  # ECDHE-ECDSA with AES-GCM


async def test_each_connection_has_its_own_certificate(pki: Pki) -> None:
    scopes: Scopes = []
    async with serving(recording(scopes), pki) as (port, _):
        for name in ("atp-1", "edp-1"):
            async with client(pki, name) as http:
                await http.get(f"https://localhost:{port}/")
    names = [scope["extensions"]["tls"]["client_cert_name"] for scope in scopes]
    assert ["CN=atp-1" in names[0], "CN=edp-1" in names[1]] == [True, True]


async def test_without_a_certificate_the_handshake_is_refused(pki: Pki) -> None:
    scopes: Scopes = []
    async with serving(recording(scopes), pki) as (port, _), client(pki, None) as http:
        with pytest.raises(httpx2.TransportError):
            await http.get(f"https://localhost:{port}/")
    assert scopes == []


async def test_a_foreign_authoritys_certificate_is_refused(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> None:
    scopes: Scopes = []
    foreign = Pki(tmp_path_factory.mktemp("foreign")).client("atp-1")
    context = pki.client_context()
    context.load_cert_chain(foreign.certificate_file, foreign.key_file)
    async with serving(recording(scopes), pki) as (port, _), httpx2.AsyncClient(verify=context, timeout=30.0) as http:
        with pytest.raises(httpx2.TransportError):
            await http.get(f"https://localhost:{port}/")
    assert scopes == []


async def test_where_none_is_asked_for_there_is_none(pki: Pki) -> None:
    scopes: Scopes = []
    async with serving(recording(scopes), pki, client_certificates=False) as (port, _), client(pki, "atp-1") as http:
        assert (await http.get(f"https://localhost:{port}/")).status_code == 200
    assert client_certificate(scopes[0]) is None
    assert scopes[0]["extensions"]["tls"]["client_cert_chain"] == []


async def test_a_connection_that_is_not_tls_costs_nobody_else_anything(pki: Pki) -> None:
    async with serving(recording([]), pki) as (port, _):
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in await read_to_end(plain)
        async with client(pki, "atp-1") as http:
            assert (await http.get(f"https://localhost:{port}/")).status_code == 200


async def test_a_failing_connection_ends_alone(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """What escapes Hypercorn on one connection, here while it is described, does not end the listener."""
    failures = [ValueError("a certificate nobody can read")]
    described = client_certificates.describe

    def describe(connection: Any) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return described(connection)

    monkeypatch.setattr(client_certificates, "describe", describe)
    async with serving(recording([]), pki) as (port, _):
        async with client(pki, "atp-1") as http:
            with pytest.raises(httpx2.TransportError):
                await http.get(f"https://localhost:{port}/")
        async with client(pki, "atp-1") as http:
            assert (await http.get(f"https://localhost:{port}/")).status_code == 200


async def test_a_stop_lets_requests_in_flight_finish_and_takes_no_new_ones(pki: Pki) -> None:
    scopes: Scopes = []
    finish = trio.Event()
    answers: list[int] = []
    async with serving(recording(scopes, wait=finish), pki) as (port, stop), client(pki, "atp-1") as http:

        async def ask() -> None:
            answers.append((await http.get(f"https://localhost:{port}/slow")).status_code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not scopes:
                await trio.lowlevel.checkpoint()
            stop.set()
            await wait_refused(port)
            finish.set()
    assert answers == [200]


async def test_connections_above_the_limit_are_closed_and_the_others_stay(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_certificates, "MAX_CONNECTIONS", 1)
    async with serving(recording([]), pki) as (port, _), client(pki, "atp-1") as first:
        assert (await first.get(f"https://localhost:{port}/")).status_code == 200
        async with client(pki, "atp-1") as second:
            with pytest.raises(httpx2.TransportError):
                await second.get(f"https://localhost:{port}/")
        assert (await first.get(f"https://localhost:{port}/")).status_code == 200


def refusing() -> Any:
    """A real application of ours, whose bodies are bounded."""
    app = edge_app()

    async def view() -> Any:
        return answer(await read_json(Thing))

    app.add_url_rule("/things", view_func=view, methods=["POST"])
    return app


@pytest.mark.parametrize("size", [1_048_577, 3_000_000, 7_000_000])
@pytest.mark.parametrize("reads", [True, False])
async def test_the_sender_of_a_body_that_is_too_large_sees_the_refusal(pki: Pki, size: int, reads: bool) -> None:
    """By a client that sends everything before it reads, such as Python's own."""

    def post(port: int) -> list[tuple[int, str | None]]:
        connection = http.client.HTTPSConnection("localhost", port, context=pki.client_context("atp-1"), timeout=20)
        with contextlib.closing(connection):
            told = []
            for _ in range(2):
                connection.request("POST", "/things", b"{" * size, {"Content-Type": "application/json"})
                response = connection.getresponse()
                told.append((response.status, response.getheader("Content-Type")))
                response.read()
            return told

    async with serving(refusing() if reads else recording([], status=413), pki) as (port, _):
        told = await trio.to_thread.run_sync(post, port)
    assert told == [(413, "application/problem+json" if reads else None)] * 2


async def test_a_refused_sender_without_end_is_not_read_for_ever(pki: Pki) -> None:
    """What it has sent is bounded by bytes; what it does not send, by time."""
    async with serving(refusing(), pki) as (port, _):
        stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=pki.client_context("atp-1"))
        async with stream, trio.open_nursery() as nursery:
            head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            await stream.send_all(head + b"Content-Length: 1000000000\r\n\r\n")
            nursery.start_soon(send_for_ever, stream)
            with trio.fail_after(20):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")
            nursery.cancel_scope.cancel()
        waiting = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=pki.client_context("atp-1"))
        async with waiting:
            await waiting.send_all(head + b"Content-Length: 2000000\r\n\r\n{")
            with trio.fail_after(20):
                assert (await waiting.receive_some()).startswith(b"HTTP/1.1 413")


async def send_for_ever(stream: Any) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"{" * 65_536)


async def test_many_requests_pass_over_one_http2_connection(pki: Pki) -> None:
    """Hypercorn's default ends a connection after 1,000 requests and breaks those in flight."""
    assert hypercorn_settings().keep_alive_max_requests > 1_000_000
    scopes: Scopes = []
    async with serving(recording(scopes), pki) as (port, _), client(pki, "atp-1", http2=True) as http:
        for _ in range(1_100):
            await http.get(f"https://localhost:{port}/")
    assert len({scope["client"] for scope in scopes}) == 1


async def test_both_loopback_families_share_a_port() -> None:
    listeners = await listen("127.0.0.1", 0)
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


async def test_a_port_in_use_gets_one_clear_sentence() -> None:
    listeners = await listen("127.0.0.1", 0)
    with pytest.raises(CannotListen, match="it is in use"):
        await listen("127.0.0.1", port_of(listeners))
    for listener in listeners:
        await listener.aclose()


def test_an_unusable_certificate_gets_one_clear_sentence(pki: Pki) -> None:
    swapped = Tls(certificate_file=pki.ca_file, key_file=pki.server_key_file, client_ca_file=pki.ca_file)
    with pytest.raises(CannotListen, match="cannot be used"):
        tls_context(swapped, client_certificates=True)
