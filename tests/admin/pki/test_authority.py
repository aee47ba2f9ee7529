"""The sandbox authority: real chains, checked by real handshakes, and a directory that survives being cut short."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from admin.pki.authority import Authority, registered
from admin.pki.key_files import BadKeyFile
from admin.pki.keys import generate_p256_key
from admin.pki.profiles import BadSubject
from engine.clock import UnixTime
from engine.consent.records import ClientId
from tests.support.pki import NOW, Pki


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> bytes:
    """Shake hands over a real socket pair; what the server saw of the client, DER. Raises either end's fault."""
    ours, theirs = socket.socketpair()
    seen: list[bytes | Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as stream:
                seen.append(stream.getpeercert(binary_form=True) or b"")
                stream.sendall(b"!")
        except OSError as error:
            seen.append(error)
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as stream:
            stream.recv(1)  # under TLS 1.3 the server judges the client's certificate after our part is done
    finally:
        thread.join(60)
    if isinstance(seen[0], Exception):
        raise seen[0]
    return seen[0]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_chain_holds_in_a_handshake_under_strict_rules(name: str, pki: Pki) -> None:
    der = handshake(pki.server_context(), pki.client_context("edp-1"), name)
    assert registered(x509.load_der_x509_certificate(der)) == pki.client("edp-1").certificate


def test_server_under_another_name_is_refused(pki: Pki) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(pki.server_context(), pki.client_context("edp-1"), "ccs.example")


def test_client_without_a_certificate_is_refused(pki: Pki) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(pki.server_context(), pki.client_context())


def test_client_of_another_authority_is_refused(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path)
    client = pki.client_context()
    files = other.client("edp-1")
    client.load_cert_chain(files.certificate_file, files.key_file)
    with pytest.raises(ssl.SSLError):
        handshake(pki.server_context(), client)


def test_server_of_another_authority_is_refused(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate"):
        handshake(Pki(tmp_path).server_context(), pki.client_context("edp-1"))


def test_server_certificate_is_no_client_certificate(pki: Pki) -> None:
    client = pki.client_context()
    client.load_cert_chain(pki.server_certificate_file, pki.server_key_file)
    with pytest.raises(ssl.SSLError):
        handshake(pki.server_context(), client)


def test_client_certificate_is_no_server_certificate(pki: Pki) -> None:
    server = pki.server_context()
    files = pki.client("edp-1")
    server.load_cert_chain(files.certificate_file, files.key_file)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(server, pki.client_context("edp-1"))


def test_client_certificate_signs_no_other(pki: Pki, tmp_path: Path) -> None:
    """A participant that plays authority: its leaf has a chain to ours, and is refused all the same."""
    files = pki.client("atp-9")
    for name, content in (("ca.key", files.key_file.read_bytes()), ("ca.pem", files.certificate_file.read_bytes())):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    forged = Authority.open(tmp_path).issue_client(ClientId("edp-1"), UnixTime(pki.issued_at))
    chain, key = tmp_path / "chain.pem", tmp_path / "chain.key"
    chain.write_bytes(forged.certificate + files.certificate_file.read_bytes())
    key.write_bytes(forged.key)
    client = pki.client_context()
    client.load_cert_chain(chain, key)
    with pytest.raises(ssl.SSLError):
        handshake(pki.server_context(), client)


def test_expired_client_certificate_is_refused(pki: Pki, tmp_path: Path) -> None:
    issued = pki.authority.issue_client(ClientId("edp-1"), UnixTime(pki.issued_at - 366 * 86_400))
    issued.write(tmp_path / "old.pem", tmp_path / "old.key")
    client = pki.client_context()
    client.load_cert_chain(tmp_path / "old.pem", tmp_path / "old.key")
    with pytest.raises(ssl.SSLError):
        handshake(pki.server_context(), client)


def test_client_certificate_names_its_client(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, NOW)
    issued = authority.issue_client(ClientId("atp-1"), NOW)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.subject.rfc4514_string() == "CN=atp-1,O=CCS sandbox"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:ccs:client:atp-1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert issued.registered.not_after == NOW + 365 * 86_400


def test_serial_numbers_do_not_repeat(pki: Pki) -> None:
    issued = [pki.authority.issue_client(ClientId("atp-1"), NOW).certificate for _ in range(20)]
    assert len({x509.load_pem_x509_certificate(pem).serial_number for pem in issued}) == 20


@pytest.mark.parametrize("client_id", ["", "Atp-1", "a" * 41, "atp 1", "atp\n1", "-atp", "é", "*"])
def test_name_that_is_no_client_id_gets_no_certificate(client_id: str, pki: Pki) -> None:
    with pytest.raises(BadSubject):
        pki.authority.issue_client(ClientId(client_id), NOW)


@pytest.mark.parametrize("names", [[], ["é.example"]])
def test_server_without_a_proper_name_gets_no_certificate(names: list[str], pki: Pki) -> None:
    with pytest.raises(BadSubject):
        pki.authority.issue_server(NOW, names)


def test_authority_is_opened_again(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "ca", NOW)
    opened = Authority.open(tmp_path / "ca")
    assert opened.certificate_pem == made.certificate_pem
    assert opened.issue_client(ClientId("edp-1"), NOW).registered.not_after > NOW
    assert (tmp_path / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700


def test_authority_is_not_made_twice(tmp_path: Path) -> None:
    Authority.create(tmp_path, NOW)
    with pytest.raises(BadKeyFile, match="has an authority already"):
        Authority.create(tmp_path, NOW)


def test_creation_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    generate_p256_key(tmp_path / "ca.key")
    before = (tmp_path / "ca.key").read_bytes()
    Authority.create(tmp_path, NOW)
    assert (tmp_path / "ca.key").read_bytes() == before
    assert Authority.open(tmp_path).certificate_pem.startswith(b"-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "ca.key").unlink(), "No such file"),
        (lambda d: (d / "ca.pem").unlink(), "No such file"),
        (lambda d: (d / "ca.pem").write_bytes(b"junk"), "no PEM certificate"),
        (lambda d: (d / "ca.key").chmod(0o644), "chmod 600"),
    ],
)
def test_spoilt_directory_is_told_in_one_sentence(spoil, words: str, tmp_path: Path) -> None:  # noqa: ANN001 - a lambda
    Authority.create(tmp_path, NOW)
    spoil(tmp_path)
    with pytest.raises(BadKeyFile, match=words):
        Authority.open(tmp_path)


def test_certificate_of_another_key_is_told(tmp_path: Path) -> None:
    Authority.create(tmp_path / "a", NOW)
    Authority.create(tmp_path / "b", NOW)
    (tmp_path / "b" / "ca.pem").write_bytes((tmp_path / "a" / "ca.pem").read_bytes())
    with pytest.raises(BadKeyFile, match="does not belong"):
        Authority.open(tmp_path / "b")


def test_printed_certificate_shows_no_key(pki: Pki) -> None:
    issued = pki.authority.issue_client(ClientId("edp-1"), NOW)
    assert "PRIVATE" in issued.key.decode()
    assert "PRIVATE" not in f"{issued!r} {issued}"
