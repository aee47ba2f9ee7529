"""A new certificate for the admin application's listeners, and files that no listener can use."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from admin.listeners import CannotListen, renew_certificate, tls_context
from engine.config import Tls
from tests.support.mutual_tls import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown_by(server: ssl.SSLContext, authority: Authority) -> bytes | None:
    """The certificate that a client sees after a whole handshake, in DER."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client_context(None).wrap_bio(to_client, to_server, server_hostname="localhost")
    served = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, served, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True)


def another_key(files: tuple[Path, Path], authority: Authority) -> None:
    files[1].write_bytes(authority.issue("stranger")[1].read_bytes())


def no_key(files: tuple[Path, Path], _authority: Authority) -> None:
    files[1].write_text("no key")


def no_certificate(files: tuple[Path, Path], _authority: Authority) -> None:
    files[0].unlink()


@pytest.mark.parametrize("spoil", [another_key, no_key, no_certificate])
def test_files_that_cannot_be_used_leave_every_listener_as_it_was(
    authority: Authority, spoil: Callable[[tuple[Path, Path], Authority], None]
) -> None:
    files = authority.issue("server")
    tls = Tls(certificate_file=files[0], key_file=files[1], client_ca_file=authority.file)
    contexts = [tls_context(tls, client_certificates=False) for _ in range(2)]
    before = [shown_by(context, authority) for context in contexts]
    authority.issue("server")
    spoil(files, authority)
    with pytest.raises(CannotListen, match=r"server\.pem and its key cannot be used"):
        renew_certificate(contexts, tls)
    assert None not in before
    assert [shown_by(context, authority) for context in contexts] == before


def test_a_new_certificate_is_shown_by_every_listener(authority: Authority) -> None:
    files = authority.issue("server")
    tls = Tls(certificate_file=files[0], key_file=files[1], client_ca_file=authority.file)
    contexts = [tls_context(tls, client_certificates=False) for _ in range(2)]
    authority.issue("server")
    renew_certificate(contexts, tls)
    renewed = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    assert [shown_by(context, authority) for context in contexts] == [renewed, renewed]
