"""Mutual TLS: versions, ciphers, no resumption, certificates that change under way."""

import contextlib
import ssl
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from engine.listener.tls import BadTlsFiles, Credentials, HandshakeFailed, Peer, TlsSession, server_context
from tests.support.mutual_tls import Authority, thumbprint_of

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("edp")


@pytest.fixture(scope="module")
def credentials(authority: Authority) -> Credentials:
    return authority.credentials()


class Shaken:
    """A connection in memory: a session of ours, and a client."""

    def __init__(self, server: TlsSession, context: ssl.SSLContext, resumed: ssl.SSLSession | None = None) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server
        self.client = context.wrap_bio(self.to_client, self.to_server, server_hostname="localhost", session=resumed)
        self.peer: Peer | None = None

    def finish(self) -> Self:
        """Both sides to the end, and a byte from the server: then the client has its session. Raises HandshakeFailed,
        or what fails at the client.
        """
        while self.peer is None:
            self._go_on()
            try:
                self.peer = self.server.handshake(self.to_server.read())
            finally:
                self.to_client.write(self.server.outgoing())
        self._go_on()
        self.to_client.write(self.server.encrypt(b"x"))
        self.client.read(1)
        return self

    def _go_on(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()


# --- who may come in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_good_versions_are_taken_with_forward_secret_ciphers(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    shaken = Shaken(TlsSession(credentials), client).finish()
    cipher = shaken.client.cipher()
    assert cipher is not None
    assert cipher[0].startswith(("ECDHE-", "TLS_AES_", "TLS_CHACHA20_"))
    assert shaken.client.version() == version.name.replace("_", ".")
    assert shaken.client.selected_alpn_protocol() == "http/1.1"
    assert shaken.peer is not None
    assert shaken.peer.thumbprint == thumbprint_of(client_files[0])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_versions_are_refused(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path]
) -> None:
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(HandshakeFailed):
        Shaken(TlsSession(credentials), client).finish()


def test_cipher_outside_the_profile_is_refused(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path]
) -> None:
    client = authority.client_context(client_files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(HandshakeFailed) as failed:
        Shaken(TlsSession(credentials), client).finish()
    assert failed.value.detail == "NO_SHARED_CIPHER"


@pytest.mark.parametrize("version", VERSIONS)
def test_client_certificate_is_required(
    authority: Authority, credentials: Credentials, version: ssl.TLSVersion
) -> None:
    client = authority.client_context(None)
    client.minimum_version = client.maximum_version = version
    with pytest.raises(HandshakeFailed) as failed:
        Shaken(TlsSession(credentials), client).finish()
    assert failed.value.detail == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_of_another_authority_is_refused(
    authority: Authority, credentials: Credentials, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    client = authority.client_context(Authority(tmp_path, "stranger").issue("edp"))
    client.minimum_version = client.maximum_version = version
    with pytest.raises(HandshakeFailed) as failed:
        Shaken(TlsSession(credentials), client).finish()
    assert failed.value.detail == "CERTIFICATE_VERIFY_FAILED"


# --- no session is resumed, and trying does no harm -------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_comes_back_with_its_session_proves_itself_anew(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = version
    held = [Shaken(TlsSession(credentials), client).finish()]  # OpenSSL forgets a session that ends without a goodbye
    for _ in range(3):
        session = held[-1].client.session
        assert session is not None
        assert not session.has_ticket
        again = Shaken(TlsSession(credentials), client, session).finish()
        assert not again.client.session_reused
        assert again.peer is not None
        assert again.peer.thumbprint == thumbprint_of(client_files[0])
        held.append(again)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_is_worth_nothing(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    """Of TLS 1.2, or a pre-shared key of TLS 1.3; another server with our certificate has given it."""
    generous = Credentials(*authority.issue("generous"), authority.file)
    for context in (generous._identity, generous._front):
        context.options &= ~ssl.OP_NO_TICKET
        context.num_tickets = 2
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = version
    first = Shaken(TlsSession(generous), client).finish()
    session = first.client.session
    assert session is not None
    assert session.has_ticket
    again = Shaken(TlsSession(credentials), client, session).finish()
    assert not again.client.session_reused
    assert again.client.session is not None
    assert not again.client.session.has_ticket


def test_a_session_made_after_a_connection_was_opened_is_not_resumed(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path]
) -> None:
    client = authority.client_context(client_files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    opened = TlsSession(credentials)
    first = Shaken(TlsSession(credentials), client).finish()
    assert not Shaken(opened, client, first.client.session).finish().client.session_reused


def test_a_session_that_is_resumed_all_the_same_is_refused(
    authority: Authority, client_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = authority.credentials()
    monkeypatch.setattr(credentials, "retire", lambda _used: None)
    client = authority.client_context(client_files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    first = Shaken(TlsSession(credentials), client).finish()
    with pytest.raises(HandshakeFailed) as failed:
        Shaken(TlsSession(credentials), client, first.client.session).finish()
    assert failed.value.detail == "no certificate was proven anew"


def test_only_sessions_of_tls_1_2_cost_a_new_front(
    authority: Authority, credentials: Credentials, client_files: tuple[Path, Path]
) -> None:
    client = authority.client_context(client_files)
    front = credentials.front
    Shaken(TlsSession(credentials), client).finish()
    assert credentials.front is front
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    Shaken(TlsSession(credentials), client).finish()
    assert credentials.front is not front


# --- files ------------------------------------------------------------------------------------------------------------


def test_reload_takes_the_new_certificate(authority: Authority, client_files: tuple[Path, Path]) -> None:
    files = authority.issue("renewed")
    credentials = Credentials(*files, authority.file)
    client = authority.client_context(client_files)
    before = Shaken(TlsSession(credentials), client).finish().client.getpeercert(binary_form=True)
    authority.issue("renewed")
    credentials.reload()
    after = Shaken(TlsSession(credentials), client).finish().client.getpeercert(binary_form=True)
    assert before != after


def test_reload_of_broken_files_keeps_what_there_was(authority: Authority, client_files: tuple[Path, Path]) -> None:
    files = authority.issue("broken")
    credentials = Credentials(*files, authority.file)
    client = authority.client_context(client_files)
    before = Shaken(TlsSession(credentials), client).finish().client.getpeercert(binary_form=True)
    files[1].write_text("no key")
    with pytest.raises(BadTlsFiles):
        credentials.reload()
    assert Shaken(TlsSession(credentials), client).finish().client.getpeercert(binary_form=True) == before


@pytest.mark.parametrize("missing", range(3))
def test_missing_file_is_named(authority: Authority, tmp_path: Path, missing: int) -> None:
    files = [*authority.issue("complete"), authority.file]
    files[missing] = tmp_path / "absent.pem"
    with pytest.raises(BadTlsFiles, match=r"absent\.pem"):
        partial(server_context, *files)()
