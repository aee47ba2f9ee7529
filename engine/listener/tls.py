"""Mutual TLS on the listener: who may connect, and a pump of our own on `ssl.MemoryBIO`.

Every connection proves its certificate anew: there are no tickets, and since OpenSSL would still resume TLS 1.2
sessions from its cache, a context that has made one takes no further connections. A session does no I/O of its own:
whoever owns the socket moves the bytes, with one system call each way for a request.
"""

import contextlib
import hashlib
import ssl
from pathlib import Path
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import Thumbprint
from engine.errors import Fault, Kind

# RFC 9325 section 4.2 for TLS 1.2, as FAPI 2.0 section 5.2.2 asks; TLS 1.3 has only good ones
CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    )
)
_RECORD: Final = 16_384  # a TLS record's content
_BATCH: Final = 16  # records gathered before the answers begin


class Peer(msgspec.Struct, frozen=True):
    """Whom the handshake proved. thumbprint: SHA-256 of the leaf's DER; not_after: of the leaf."""

    thumbprint: Thumbprint
    not_after: UnixTime


class BadTlsFiles(Fault):
    """Certificate, key or authorities cannot be read or do not belong together."""

    kind = Kind.INVALID


class PeerGone(Fault):
    """The other side reset or broke the connection; there is nobody left to tell."""

    kind = Kind.UNAVAILABLE


class HandshakeFailed(Fault):
    """No trusted client certificate, no common version, or not TLS at all."""

    kind = Kind.UNAUTHENTICATED


def server_context(certificate_file: Path, key_file: Path, client_ca_file: Path) -> ssl.SSLContext:
    """A context that demands a client certificate (TLS 1.2 and 1.3). Raises BadTlsFiles."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate_file, key_file)
        context.load_verify_locations(client_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadTlsFiles(f"{certificate_file}, {key_file}, {client_ca_file}: {error}") from error
    return context


class Credentials:
    """The server's certificate as it now stands on disk; `reload` changes it for new connections only."""

    def __init__(self, certificate_file: Path, key_file: Path, client_ca_file: Path) -> None:
        self._files = (certificate_file, key_file, client_ca_file)
        self._context = server_context(*self._files)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context

    def reload(self) -> None:
        """Read the files again. Raises BadTlsFiles and then goes on with what it had."""
        self._context = server_context(*self._files)

    def retire(self, used: ssl.SSLContext) -> None:
        """A TLS 1.2 session was made under `used`: let nobody resume it."""
        if used is self._context:
            with contextlib.suppress(BadTlsFiles):  # files in the middle of a change; resumption is refused anyway
                self.reload()


class TlsSession:
    """One connection's TLS, server side, without I/O: bytes of the network in, bytes for the network out."""

    __slots__ = ("_incoming", "_outgoing", "_read", "_tls", "_write", "context", "ended", "more")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.context = context
        self._read = self._tls.read
        self._write = self._tls.write
        self.ended = False  # the peer has said goodbye
        self.more = False  # what has arrived holds more than was read; decrypt again, with nothing

    def handshake(self, arrived: bytes | memoryview) -> Peer | None:
        """Go on with the handshake; None = more must arrive. `outgoing` is to be sent, also when this raises.

        Raises HandshakeFailed.
        """
        self._incoming.write(arrived)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            raise HandshakeFailed("the TLS handshake failed", detail=error.reason or str(error)) from error
        return self._proven()

    @property
    def resumable(self) -> bool:
        """Whether OpenSSL now remembers a session that a client could come back with."""
        return self._tls.version() == "TLSv1.2"

    def outgoing(self) -> bytes:
        """What is to be sent now."""
        return self._outgoing.read()

    def decrypt(self, arrived: bytes | memoryview) -> bytes:
        """The content of up to 16 records; see `more`. b"" = no whole record, or `ended`. Raises PeerGone."""
        incoming = self._incoming
        incoming.write(arrived)
        self.more = False
        try:
            data = self._read(_RECORD)
            if incoming.pending:
                return self._decrypt_more(data)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            self.ended = True
            return b""
        except ssl.SSLError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        return data

    def _decrypt_more(self, first: bytes) -> bytes:
        records = [first]
        try:
            while self._incoming.pending:
                if len(records) >= _BATCH:
                    self.more = True
                    break
                records.append(self._read(_RECORD))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(records)

    def encrypt(self, data: bytes) -> bytes:
        """Records to send. Raises PeerGone."""
        try:
            self._write(data)
        except ssl.SSLError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """close_notify, to be sent last."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._outgoing.read()

    def _proven(self) -> Peer:
        der = self._tls.getpeercert(binary_form=True)
        fields = self._tls.getpeercert()
        if self._tls.session_reused or der is None or not fields:
            raise HandshakeFailed("the TLS handshake failed", detail="no certificate was proven anew")
        not_after = ssl.cert_time_to_seconds(str(fields["notAfter"]))
        return Peer(Thumbprint(hashlib.sha256(der).digest()), UnixTime(not_after))
