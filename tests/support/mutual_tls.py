"""Throw-away certificates for the listener's own tests, and a client that speaks raw bytes over mutual TLS."""

import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import h11
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.listener.tls import Credentials

DAY = datetime.timedelta(days=1)


class Authority:
    """A certification authority in a directory. Files are PEM."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / f"{name}.pem"
        certificate = (
            self._builder(self.name, self.key.public_key(), DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, lives: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + lives)
        )

    def issue(self, name: str, *, lives: datetime.timedelta = DAY) -> tuple[Path, Path]:
        """A leaf for localhost, good for server and client; returns (certificate file, key file)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), lives)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files[1].write_bytes(key.private_bytes(*encoding))
        return files

    def credentials(self, name: str = "server") -> Credentials:
        """What a server with a fresh leaf of this authority needs; it trusts this authority's clients."""
        return Credentials(*self.issue(name), self.file)

    def client_context(self, files: tuple[Path, Path] | None) -> ssl.SSLContext:
        """A client's side; files None: no client certificate."""
        context = ssl.create_default_context(cafile=str(self.file))
        if files:
            context.load_cert_chain(*files)
        return context


def thumbprint_of(certificate_file: Path) -> bytes:
    """SHA-256 of the certificate's DER."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_file.read_text())).digest()


class RawClient:
    """Sends bytes as they are and reads answers with h11."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._left = b""

    async def send(self, raw: bytes) -> None:
        await self.stream.send_all(raw)

    async def receive(self) -> bytes:
        return bytes(await self.stream.receive_some(65536))

    async def answer(self, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(self._left) if self._left else None
        start: h11.Response | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await self.receive())
            elif isinstance(event, h11.Response):
                start = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
        assert start is not None
        self._left = connection.trailing_data[0]
        return start.status_code, {n.decode(): v.decode() for n, v in start.headers}, body

    async def ended(self) -> bool:
        """Whether the server closes without another byte."""
        try:
            return not self._left and not await self.receive()
        except trio.BrokenResourceError:
            return True


class Dialler:
    """Opens connections to localhost and closes what a test left open."""

    def __init__(self) -> None:
        self._streams: list[trio.SocketStream] = []

    async def dial(self, port: int, context: ssl.SSLContext | None) -> RawClient:
        """The TLS handshake happens at the first use."""
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        self._streams.append(plain)
        if context is None:
            return RawClient(plain)
        return RawClient(trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True))

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task will make true; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - the code under test has no event for it
        await trio.sleep(0.005)
