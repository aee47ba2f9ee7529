"""Mutual TLS: versions, ciphers, no resumption, certificates that change under way."""

import ssl
from functools import partial
from pathlib import Path

import pytest

from engine.listener.tls import BadTlsFiles, Credentials, server_context
from tests.support.mutual_tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def client_files(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("edp")


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory; raises what the side that fails raises. Returns (server's, client's) end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    steps = [end.do_handshake for end in ends]
    while steps:
        for step in list(steps):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            steps.remove(step)
    ends[1].write(b"x")
    ends[0].read(1)
    return ends[1], ends[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_good_versions_are_taken_with_forward_secret_ciphers(
    authority: Authority, client_files: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = version
    server_end, _ = shake_hands(authority.credentials().context, client)
    cipher = server_end.cipher()
    assert cipher is not None
    assert cipher[0].startswith(("ECDHE-", "TLS_AES_", "TLS_CHACHA20_"))
    assert server_end.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_old_versions_are_refused(authority: Authority, client_files: tuple[Path, Path]) -> None:
    client = authority.client_context(client_files)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake_hands(authority.credentials().context, client)


def test_cipher_outside_the_profile_is_refused(authority: Authority, client_files: tuple[Path, Path]) -> None:
    client = authority.client_context(client_files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        shake_hands(authority.credentials().context, client)


def test_client_certificate_is_required(authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(authority.credentials().context, authority.client_context(None))


def test_no_session_is_offered_over_tls_1_3(authority: Authority, client_files: tuple[Path, Path]) -> None:
    context, client = authority.credentials().context, authority.client_context(client_files)
    _, first = shake_hands(context, client)
    server_end, _ = shake_hands(context, client, first.session)
    assert not server_end.session_reused


def test_context_that_made_a_tls_1_2_session_is_retired(authority: Authority, client_files: tuple[Path, Path]) -> None:
    credentials, client = authority.credentials(), authority.client_context(client_files)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    used = credentials.context
    _, first = shake_hands(used, client)
    credentials.retire(used)
    server_end, _ = shake_hands(credentials.context, client, first.session)
    assert not server_end.session_reused


def test_reload_takes_the_new_certificate(authority: Authority, client_files: tuple[Path, Path]) -> None:
    files = authority.issue("renewed")
    credentials = Credentials(*files, authority.file)
    client = authority.client_context(client_files)
    before = shake_hands(credentials.context, client)[1].getpeercert(binary_form=True)
    authority.issue("renewed")
    credentials.reload()
    after = shake_hands(credentials.context, client)[1].getpeercert(binary_form=True)
    assert before != after


def test_reload_of_broken_files_keeps_what_there_was(authority: Authority) -> None:
    files = authority.issue("broken")
    credentials = Credentials(*files, authority.file)
    context = credentials.context
    files[1].write_text("no key")
    with pytest.raises(BadTlsFiles):
        credentials.reload()
    assert credentials.context is context


@pytest.mark.parametrize("missing", range(3))
def test_missing_file_is_named(authority: Authority, tmp_path: Path, missing: int) -> None:
    files = [*authority.issue("complete"), authority.file]
    files[missing] = tmp_path / "absent.pem"
    with pytest.raises(BadTlsFiles, match=r"absent\.pem"):
        partial(server_context, *files)()
