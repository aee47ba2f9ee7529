"""Certificates in headers: taken from the pinned proxy only, read in one way only, verified again."""

import base64
import datetime
import hashlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from engine.clock import UnixTime
from engine.config import BadConfig
from engine.consent.records import Role, Thumbprint
from engine.listener.forwarded import (
    MAX_DER,
    BadForwarded,
    ClientAuthorities,
    ForwardedCertificates,
    read_byte_sequence,
    read_certificate,
    read_forwarded,
    thumbprints,
)
from engine.listener.http1 import Headers, Request, Response
from engine.listener.security import SecurityEventKind
from engine.listener.serve import Handler, Limits, Peer, serve
from engine.listener.tls import Credentials
from engine.telemetry.host import SystemClock
from tests.support.endpoint import KeptEvents, Node
from tests.support.mutual_tls import Authority, Dialler, RawClient, thumbprint_of
from tests.support.pki import NOW, Pki

ASK = b"GET /a HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
NAMED = (400, b'{"error":"invalid_client"}')
WRONG = (401, b'{"error":"invalid_client"}')


def der_of(certificate_file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate_file.read_text())


def thumbprint(der: bytes) -> Thumbprint:
    return Thumbprint(hashlib.sha256(der).digest())


def sequence(der: bytes) -> bytes:
    return b":" + base64.b64encode(der) + b":"


def forwarding(der: bytes) -> bytes:
    return b"Client-Cert: " + sequence(der) + b"\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs participants' certificates, the server's and the proxies' own."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def hop(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("proxy")


@pytest.fixture(scope="module")
def leaf(authority: Authority) -> bytes:
    return der_of(authority.issue("edp")[0])


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return der_of(Authority(tmp_path_factory.mktemp("strangers"), "stranger").issue("edp")[0])


class Behind:
    """A listener behind a proxy, and what its handler and its security events have seen."""

    def __init__(self, dial: Callable[[ssl.SSLContext], Awaitable[RawClient]], authority: Authority) -> None:
        self.security = KeptEvents()
        self.seen: list[tuple[Headers, Peer]] = []
        self._dial = dial
        self._authority = authority

    def handler(self, request: Request, peer: Peer) -> Response:
        self.seen.append((request.headers, peer))
        return Response(200, b"ok")

    async def proxy(self, files: tuple[Path, Path] | None) -> RawClient:
        """A proxy's connection; files: its certificate."""
        return await self._dial(self._authority.client_context(files))

    @property
    def events(self) -> list[SecurityEventKind]:
        return [event.kind for event in self.security.events]


@pytest.fixture
async def behind(nursery: trio.Nursery, dialler: Dialler, authority: Authority, hop: tuple[Path, Path]) -> Behind:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    behind = Behind(partial(dialler.dial, port), authority)
    handler: Handler = ForwardedCertificates(
        behind.handler,
        hops=[Thumbprint(thumbprint_of(hop[0]))],
        authorities=ClientAuthorities(authority.file),
        clock=SystemClock(),
        security=behind.security,
    )
    run = partial(serve, handler, [listening], authority.credentials(), Limits(), clock=SystemClock())
    await nursery.start(run)
    return behind


async def test_the_peer_is_whom_the_pinned_proxy_names(
    behind: Behind, hop: tuple[Path, Path], leaf: bytes, authority: Authority
) -> None:
    other = der_of(authority.issue("edp-2")[0])
    proxy = await behind.proxy(hop)
    for der in (leaf, other, leaf):
        await proxy.send(ASK % forwarding(der))
        assert (await proxy.answer("GET"))[0] == 200
    told = [peer.thumbprint for _, peer in behind.seen]
    assert told == [thumbprint(der) for der in (leaf, other, leaf)]
    assert behind.seen[0][0] == ((b"host", b"localhost"),), "the handler sees no forwarded certificate"
    assert behind.seen[0][1].not_after > SystemClock().now()
    assert behind.events == []


async def test_a_chain_is_read_and_left_alone(
    behind: Behind, hop: tuple[Path, Path], leaf: bytes, stranger: bytes
) -> None:
    proxy = await behind.proxy(hop)
    await proxy.send(
        ASK % (forwarding(leaf) + b"Client-Cert-Chain: " + sequence(stranger) + b", " + sequence(leaf) + b"\r\n")
    )
    assert (await proxy.answer("GET"))[0] == 200
    assert behind.seen[0][1].thumbprint == thumbprint(leaf)


async def test_a_hop_that_is_not_pinned_is_refused_and_sent_away(
    behind: Behind, authority: Authority, leaf: bytes
) -> None:
    proxy = await behind.proxy(authority.issue("another-proxy"))
    await proxy.send(ASK % forwarding(leaf) + ASK % forwarding(leaf))
    status, headers, body = await proxy.answer("GET")
    assert ((status, body), headers["connection"]) == (WRONG, "close")
    assert await proxy.ended()
    assert behind.seen == []
    assert behind.events == [SecurityEventKind.BAD_FORWARDED_CERTIFICATE]


async def test_a_hop_of_another_authority_gets_no_handshake(behind: Behind, tmp_path: Path, leaf: bytes) -> None:
    proxy = await behind.proxy(Authority(tmp_path, "elsewhere").issue("proxy"))
    with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):  # noqa: PT012 - either may be the one that fails
        await proxy.send(ASK % forwarding(leaf))
        assert await proxy.receive() == b""
        raise trio.BrokenResourceError
    assert behind.seen == []


async def test_a_participant_that_comes_past_the_proxy_is_no_proxy(
    behind: Behind, authority: Authority, leaf: bytes
) -> None:
    edp = await behind.proxy((authority.directory / "edp.pem", authority.directory / "edp.key"))
    await edp.send(ASK % forwarding(leaf))
    status, _, body = await edp.answer("GET")
    assert (status, body) == WRONG
    assert behind.seen == []


async def test_no_certificate_at_all_is_no_client(behind: Behind, hop: tuple[Path, Path]) -> None:
    proxy = await behind.proxy(hop)
    await proxy.send(ASK % b"")
    status, _, body = await proxy.answer("GET")
    assert (status, body) == NAMED
    assert behind.events == [], "a client without a certificate is the proxy's daily business"


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "twice": lambda der: forwarding(der) * 2,
    "twice, once in another spelling": lambda der: forwarding(der) + b"CLIENT-CERT: :YQ==:\r\n",
    "a list": lambda der: b"Client-Cert: " + sequence(der) + b", " + sequence(der) + b"\r\n",
    "with a parameter": lambda der: b"Client-Cert: " + sequence(der) + b";a=1\r\n",
    "no byte sequence": lambda der: b"Client-Cert: " + base64.b64encode(der) + b"\r\n",
    "a string": lambda der: b'Client-Cert: "' + base64.b64encode(der) + b'"\r\n',
    "PEM, escaped": lambda _der: b"Client-Cert: -----BEGIN%20CERTIFICATE-----\r\n",
    "no closing colon": lambda der: b"Client-Cert: " + sequence(der)[:-1] + b"\r\n",
    "one colon": lambda _der: b"Client-Cert: :\r\n",
    "nothing": lambda _der: b"Client-Cert:\r\n",
    "white space in base64": lambda der: b"Client-Cert: " + sequence(der).replace(b"A", b"A ", 1) + b"\r\n",
    "base64url": lambda _der: b"Client-Cert: :" + base64.urlsafe_b64encode(b"\xff" * 60) + b":\r\n",
    "without padding": lambda _der: b"Client-Cert: :YQ:\r\n",
    "bits beyond the end": lambda _der: b"Client-Cert: :YR==:\r\n",
    "a chain alone": lambda der: b"Client-Cert-Chain: " + sequence(der) + b"\r\n",
    "two chains": lambda der: forwarding(der) + (b"Client-Cert-Chain: " + sequence(der) + b"\r\n") * 2,
    "an empty chain": lambda der: forwarding(der) + b"Client-Cert-Chain:\r\n",
    "a chain with a gap": lambda der: forwarding(der) + b"Client-Cert-Chain: " + sequence(der) + b",\r\n",
    "a chain of nonsense": lambda der: forwarding(der) + b"Client-Cert-Chain: :YQ==:\r\n",
    "a chain too long": lambda der: forwarding(der) + b"Client-Cert-Chain: " + b",".join([b":YQ==:"] * 9) + b"\r\n",
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_exactly_one_certificate_is_refused(
    behind: Behind, hop: tuple[Path, Path], leaf: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    proxy = await behind.proxy(hop)
    await proxy.send(ASK % spoil(leaf))
    status, _, body = await proxy.answer("GET")
    assert (status, body) == NAMED
    assert behind.seen == []
    assert behind.events == [SecurityEventKind.BAD_FORWARDED_CERTIFICATE]
    await proxy.send(ASK % forwarding(leaf))  # the proxy's connection serves its other clients
    assert (await proxy.answer("GET"))[0] == 200


async def test_certificates_that_prove_nothing_are_refused(
    behind: Behind, hop: tuple[Path, Path], leaf: bytes, stranger: bytes, authority: Authority
) -> None:
    over = der_of(authority.issue("over", lives=datetime.timedelta(hours=-1))[0])
    tampered = leaf[:-1] + bytes([leaf[-1] ^ 1])
    proxy = await behind.proxy(hop)
    for der in (stranger, over, tampered, b"no certificate", leaf + b"\0"):
        await proxy.send(ASK % forwarding(der))
        status, _, body = await proxy.answer("GET")
        assert (status, body) == WRONG
    assert behind.seen == []
    assert len(behind.events) == 5


async def test_an_authority_is_no_client_of_its_own(
    behind: Behind, hop: tuple[Path, Path], authority: Authority
) -> None:
    proxy = await behind.proxy(hop)
    await proxy.send(ASK % forwarding(der_of(authority.file)))
    assert (await proxy.answer("GET"))[0] == 401
    assert behind.seen == []


async def test_a_suspended_participant_is_refused_through_the_proxy_too(
    nursery: trio.Nursery, dialler: Dialler, tmp_path: Path, pki: Pki, published: bytes
) -> None:
    node = Node(tmp_path, pki, published, NOW)
    try:
        node.open()
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        proxy = pki.client("proxy")
        handler = ForwardedCertificates(
            node.endpoint,
            hops=[proxy.certificate.thumbprint],
            authorities=ClientAuthorities(pki.ca_file),
            clock=SystemClock(),  # of which the made-up authority's certificates are
            security=node.security,
        )
        tls = Credentials(pki.server_certificate_file, pki.server_key_file, pki.ca_file)
        await nursery.start(partial(serve, handler, [listening], tls, Limits(), clock=SystemClock()))
        client = await dialler.dial(port, pki.client_context("proxy"))
        told = []
        for suspended in (False, True, False):
            node.register("edp-1", Role.EDP, suspended=suspended)
            head = b"POST /introspect HTTP/1.1\r\nHost: localhost\r\n" + forwarding(
                der_of(pki.client("edp-1").certificate_file)
            )
            await client.send(
                head + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x"
            )
            told.append((await client.answer())[0])
    finally:
        node.store.close()
    assert told == [200, 401, 200]


@pytest.mark.parametrize("name", [b"Client-Cert", b"client-cert-chain"])
async def test_elsewhere_the_header_is_ignored_and_reported(
    nursery: trio.Nursery, dialler: Dialler, tmp_path: Path, pki: Pki, published: bytes, name: bytes
) -> None:
    node = Node(tmp_path, pki, published, NOW)
    try:
        node.open()
        node.register("edp-1", Role.EDP)
        node.register("edp-2", Role.EDP, suspended=True)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        tls = Credentials(pki.server_certificate_file, pki.server_key_file, pki.ca_file)
        await nursery.start(partial(serve, node.endpoint, [listening], tls, Limits(), clock=node.clock))
        told = []
        for caller, named in (("edp-1", "edp-2"), ("edp-2", "edp-1")):
            client = await dialler.dial(port, pki.client_context(caller))
            field = name + b": " + sequence(der_of(pki.client(named).certificate_file)) + b"\r\n"
            form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\ntoken=x"
            await client.send(b"POST /introspect HTTP/1.1\r\nHost: localhost\r\n" + field + form)
            told.append((await client.answer())[0])
    finally:
        node.store.close()
    assert told == [200, 401], "the certificate of the connection decides"
    assert [event.kind for event in node.security.events] == [SecurityEventKind.STRAY_FORWARDED_CERTIFICATE] * 2
    assert pki.client("edp-1").certificate.thumbprint.hex() in node.security.events[0].detail


# --- the pieces -------------------------------------------------------------------------------------------------------


def test_verified_certificates_are_held_to_their_time_later_too(authority: Authority, leaf: bytes) -> None:
    authorities = ClientAuthorities(authority.file)
    now = UnixTime(int(time.time()))
    peer = authorities.peer(leaf, now)
    assert authorities.peer(leaf, UnixTime(peer.not_after - 60)) == peer  # their authority ends some seconds earlier
    for moment in (peer.not_after + 1, now - 3 * 86_400):
        with pytest.raises(BadForwarded, match="in its time"):
            authorities.peer(leaf, UnixTime(moment))


def test_reload_forgets_whom_the_authorities_no_longer_vouch_for(
    tmp_path: Path, authority: Authority, leaf: bytes
) -> None:
    file = tmp_path / "authorities.pem"
    file.write_bytes(authority.file.read_bytes())
    authorities = ClientAuthorities(file)
    now = UnixTime(int(time.time()))
    authorities.peer(leaf, now)
    file.write_bytes(Authority(tmp_path, "other").file.read_bytes())
    authorities.reload()
    with pytest.raises(BadForwarded, match="authorities"):
        authorities.peer(leaf, now)
    file.write_text("nonsense")
    with pytest.raises(BadConfig, match=r"authorities\.pem"):
        authorities.reload()


def test_a_certificate_beyond_the_size_is_not_even_decoded() -> None:
    assert len(read_byte_sequence(sequence(b"a" * MAX_DER))) == MAX_DER
    with pytest.raises(BadForwarded, match="too large"):
        read_byte_sequence(sequence(b"a" * (MAX_DER + 6)))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        pytest.param(b"\x30", b"\x31", id="another structure"),
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x1a", id="an unknown version"),
        pytest.param(b"\x55\x04\x03\x0c", b"\x55\x04\x03\x03", id="a name that is no text"),
        pytest.param(b"\x55\x04\x03\x0c\x03edp", b"\x55\x04\x03\x03\x03\x00dp", id="a name of bits"),
        pytest.param(b"\x17\x0d", b"\x17\x0c", id="a time that is none"),
        pytest.param(b"\x55\x1d\x25", b"\x55\x1d\x11", id="an extension twice"),
    ],
)
def test_bytes_that_are_no_certificate_are_named_as_such(leaf: bytes, good: bytes, bad: bytes) -> None:
    spoiled = leaf.replace(good, bad, 1)
    assert spoiled != leaf
    with pytest.raises(BadForwarded, match="no certificate"):
        read_certificate(spoiled)


def test_a_head_without_these_fields_forwards_nothing() -> None:
    assert read_forwarded(((b"host", b"x"),)) is None


def test_pins_are_written_as_openssl_prints_them() -> None:
    assert thumbprints(["AB:" * 31 + "cd", "00" * 32]) == (b"\xab" * 31 + b"\xcd", bytes(32))


@pytest.mark.parametrize("pins", [[], ["xy"], ["abcd"], ["00" * 33]])
def test_pins_that_could_never_match_are_refused(pins: list[str]) -> None:
    with pytest.raises(BadConfig, match="pinned-thumbprints"):
        thumbprints(pins)
