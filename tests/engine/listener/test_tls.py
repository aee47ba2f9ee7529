"""Mutual TLS: versions, ciphers, no resumption, certificates that change under way, records without content."""

import contextlib
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.listener.tls import BadTlsFiles, Credentials, HandshakeFailed, Peer, PeerGone, TlsSession, server_context
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.tls_records import APPLICATION_DATA, Sealer, client_secret

BARREN = "the peer sends records without content"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Shaken:
    """A connection in memory: a session of ours, and a client."""

    def __init__(
        self,
        server: TlsSession,
        context: ssl.SSLContext,
        resumed: ssl.SSLSession | None = None,
        key_log: Path | None = None,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server, self._key_log = server, key_log
        if key_log is not None:
            context.keylog_filename = str(key_log)
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

    def sealer(self) -> Sealer:
        """For the client's records in place of the client; it has sent none."""
        cipher = self.client.cipher()
        assert cipher is not None
        assert self._key_log is not None
        return Sealer(cipher[0], client_secret(self._key_log))

    def take(self, arrived: bytes) -> tuple[bytes, int]:
        """What the server reads, and the turns it took."""
        content, turns = self.server.decrypt(arrived), 1
        while self.server.more:
            content += self.server.decrypt(b"")
            turns += 1
        return content, turns

    def flood(self, arrivals: Sequence[bytes]) -> tuple[int, str]:
        """The turns of the server, and why it cut the peer off before all had arrived; "" = it did not."""
        turns = 0
        try:
            for arrived in arrivals:
                turns += 1
                self.server.decrypt(arrived)
                while self.server.more:
                    turns += 1
                    self.server.decrypt(b"")
        except PeerGone as gone:
            return turns, gone.text
        return turns, ""


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


# --- records without content ------------------------------------------------------------------------------------------


@pytest.fixture
def shaken(credentials: Credentials, authority: Authority, client_files: tuple[Path, Path], tmp_path: Path) -> Shaken:
    client = authority.client_context(client_files)
    return Shaken(TlsSession(credentials), client, key_log=tmp_path / "keys").finish()


def test_a_key_update_is_followed_and_answered(shaken: Shaken) -> None:
    sealer = shaken.sealer()
    for requested in (False, True, False):
        update = sealer.key_update(requested=requested)
        assert shaken.take(update + sealer.record(APPLICATION_DATA, b"question"))[0] == b"question"
        shaken.to_client.write(shaken.server.encrypt(b"answer"))
        assert shaken.client.read(100) == b"answer"


@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("at_once", [27, 1448, 65536])
def test_a_flood_of_key_updates_is_cut_off(shaken: Shaken, at_once: int, *, requested: bool) -> None:
    sealer = shaken.sealer()
    flood = b"".join([sealer.key_update(requested=requested) for _ in range(1000)])
    turns, reason = shaken.flood([flood[start : start + at_once] for start in range(0, len(flood), at_once)])
    assert reason == BARREN
    assert 4 < turns < 2 + 22_000 / min(at_once, 4096)  # others have theirs between
    assert len(shaken.server.outgoing()) < 22_000


def test_key_updates_between_contents_take_many_turns(shaken: Shaken) -> None:
    sealer = shaken.sealer()
    pieces = [
        b"".join([sealer.key_update() for _ in range(300)]) + sealer.record(APPLICATION_DATA, b"%d" % number)
        for number in range(8)
    ]
    content, turns = shaken.take(b"".join(pieces))
    assert content == b"01234567"
    assert turns >= 8


def test_answers_to_key_updates_that_nobody_waits_for_are_not_heaped_up(shaken: Shaken) -> None:
    sealer = shaken.sealer()
    updates = [
        b"".join([sealer.key_update(requested=True) for _ in range(200)]) + sealer.record(APPLICATION_DATA, b"x")
        for _ in range(50)
    ]
    assert shaken.flood(updates)[1] == BARREN
    assert len(shaken.server.outgoing()) < 16_384 + 2 * 200 * 27


def test_a_flood_of_empty_records_is_cut_off(shaken: Shaken) -> None:
    sealer = shaken.sealer()
    with pytest.raises(PeerGone):
        shaken.take(b"".join([sealer.record(APPLICATION_DATA, b"") for _ in range(33)]))


@given(
    sizes=st.lists(st.sampled_from((0, 1, 50, 1500, 4096, 16_384)), max_size=25),
    updates=st.sets(st.integers(0, 25), max_size=4),
    cuts=st.lists(st.sampled_from((1, 5, 100, 1448, 4096, 4097, 16_000, 65_536)), min_size=1, max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_content_arrives_whole_however_it_is_cut(
    authority: Authority,
    credentials: Credentials,
    client_files: tuple[Path, Path],
    tmp_path: Path,
    sizes: list[int],
    updates: set[int],
    cuts: list[int],
) -> None:
    client = authority.client_context(client_files)
    shaken = Shaken(TlsSession(credentials), client, key_log=tmp_path / "keys").finish()
    sealer, raw, told = shaken.sealer(), b"", b""
    for number, size in enumerate(sizes):
        content = bytes([number]) * size
        told += content
        raw += (sealer.key_update() if number in updates else b"") + sealer.record(APPLICATION_DATA, content)
    read, at, turn = b"", 0, 0
    while at < len(raw):
        cut = cuts[turn % len(cuts)] if turn < 500 else 65_536
        read += shaken.take(raw[at : at + cut])[0]
        at, turn = at + cut, turn + 1
    assert read == told
