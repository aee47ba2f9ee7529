"""Mutual TLS on the listener: who may connect, and a pump of our own on `ssl.MemoryBIO`.

Every connection proves its certificate anew. There are no tickets; but OpenSSL keeps TLS 1.2 sessions in a cache that
Python cannot switch off, and looks one up in the context that a connection was begun under, even when the connection
has changed over to another. So each is begun under a *front*, a context with the profile and nothing else, and changed
over at once to the *identity*, which holds certificate and authorities. A front whose cache holds a session takes no
further connections; making one costs a sixth of reading the files again.

A session does no I/O of its own: whoever owns the socket moves the bytes, with one system call each way for a request.
Records without content (KeyUpdate, RFC 8446 section 4.6.3) cost their sender next to nothing and us up to 40 us each,
and OpenSSL goes through all that it has got at once. So it gets bytes in slices, a turn ends when slices bring nothing,
and a peer that has sent more than any record holds without a byte of content is cut off.
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
_SLICE: Final = 4_096  # bytes given to OpenSSL at once: 150 records without content
_LARGEST: Final = 5 + _RECORD + 256  # bytes of the largest record
_CONTENT: Final = 0x17  # the first byte of a record of application data (RFC 8446 section 5.1)
_BARREN: Final = _LARGEST + _SLICE  # bytes without content: the largest record, and what may go before it
_NOTHING: Final = memoryview(b"")
_UNSENT: Final = 16_384  # bytes that OpenSSL wants to say unasked


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
    context = _front()
    try:
        context.load_cert_chain(certificate_file, key_file)
        context.load_verify_locations(client_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadTlsFiles(f"{certificate_file}, {key_file}, {client_ca_file}: {error}") from error
    return context


def _front() -> ssl.SSLContext:
    """The profile alone: versions, ciphers, options, and that a certificate is demanded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Credentials:
    """The server's certificate as it now stands on disk; `reload` changes it for new connections only."""

    def __init__(self, certificate_file: Path, key_file: Path, client_ca_file: Path) -> None:
        self._files = (certificate_file, key_file, client_ca_file)
        self._identity = server_context(*self._files)
        self._front = _front()

    @property
    def front(self) -> ssl.SSLContext:
        """What the next connection begins under."""
        return self._front

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The server's end of a new connection."""
        tls = self._front.wrap_bio(incoming, outgoing, server_side=True)
        tls.context = self._identity
        return tls

    def reload(self) -> None:
        """Read the files again. Raises BadTlsFiles and then goes on with what it had."""
        self._identity = server_context(*self._files)

    def retire(self, used: ssl.SSLContext) -> None:
        """A TLS 1.2 session was made under this front: let nobody resume it."""
        if used is self._front:
            self._front = _front()


class TlsSession:
    """One connection's TLS, server side, without I/O: bytes of the network in, bytes for the network out."""

    __slots__ = (
        "_barren",
        "_credentials",
        "_front",
        "_incoming",
        "_late",
        "_outgoing",
        "_read",
        "_tls",
        "_write",
        "ended",
        "more",
    )
    _tls: ssl.SSLObject

    def __init__(self, credentials: Credentials) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._credentials = credentials
        self._front: ssl.SSLContext | None = None
        self._late = _NOTHING  # has arrived, and OpenSSL does not have it yet
        self._barren = 0  # bytes since the last content
        self.ended = False  # the peer has said goodbye
        self.more = False  # what has arrived holds more than was read; decrypt again, with nothing

    def _begin(self) -> None:
        """When the first bytes come, not sooner: meanwhile another's session may have retired a front."""
        self._front = self._credentials.front
        self._tls = self._credentials.wrap(self._incoming, self._outgoing)
        self._read = self._tls.read
        self._write = self._tls.write

    def handshake(self, arrived: bytes | memoryview) -> Peer | None:
        """Go on with the handshake; None = more must arrive. `outgoing` is to be sent, also when this raises.

        Raises HandshakeFailed.
        """
        if self._front is None:
            self._begin()
        self._hold(arrived)
        while self._late:
            self._feed()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                raise HandshakeFailed("the TLS handshake failed", detail=error.reason or str(error)) from error
            self.more = bool(self._late)
            return self._proven()
        return None

    def _hold(self, arrived: bytes | memoryview) -> None:
        """A copy, for what has arrived lies in a place that others read into next."""
        self._late = memoryview(bytes(self._late) + bytes(arrived) if self._late else bytes(arrived))

    def _feed(self, size: int = _SLICE) -> int:
        """Give OpenSSL the next slice; returns its bytes.

        A record that is larger goes in whole, for it costs no more than its content. Where the slice does not begin
        with a record, what looks like one may be none: then it is a larger slice, no more.
        """
        late = self._late
        if late[0] == _CONTENT and len(late) > 4:
            size = max(size, min(_LARGEST, 5 + (late[3] << 8) + late[4]))
        self._late = late[size:]
        return self._incoming.write(late[:size])

    def outgoing(self) -> bytes:
        """What is to be sent now."""
        return self._outgoing.read()

    def decrypt(self, arrived: bytes | memoryview) -> bytes:
        """The content of up to 16 records; see `more`. b"" = no whole record, or `ended`. Raises PeerGone."""
        if len(arrived) > _SLICE or self.more:
            self._hold(arrived)
            return self._gather([])
        incoming = self._incoming
        incoming.write(arrived)
        try:
            data = self._read(_RECORD)
        except ssl.SSLWantReadError:
            self._note_barren(len(arrived))
            return b""
        except ssl.SSLZeroReturnError:
            self.ended = True
            return b""
        except ssl.SSLError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        self._barren = 0
        return self._gather([data]) if incoming.pending else data

    def _gather(self, records: list[bytes]) -> bytes:
        """What there is, up to a batch of records, or to a slice that brings too little. Raises PeerGone."""
        taken = size = fed = 0
        try:
            while len(records) < _BATCH:
                if not self._incoming.pending:
                    if not self._late or taken >= 2 * size + _SLICE:
                        break
                    fed = self._feed(max(_SLICE, size))  # more for those who have brought content
                    taken += fed
                try:
                    data = self._read(_RECORD)
                except ssl.SSLWantReadError:
                    self._note_barren(fed)
                    fed = 0
                    continue
                records.append(data)
                size += len(data)
                fed = self._barren = 0
        except ssl.SSLZeroReturnError:
            self.ended, self._late = True, _NOTHING
        except ssl.SSLError as error:
            raise PeerGone("the connection broke", detail=str(error)) from error
        self.more = bool(self._late) or (self._incoming.pending > 0 and not self.ended)
        return b"".join(records)

    def _note_barren(self, taken: int) -> None:
        self._barren += taken
        if self._barren > _BARREN or self._outgoing.pending > _UNSENT:
            raise PeerGone("the peer sends records without content")

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
        if self._tls.version() == "TLSv1.2" and self._front is not None:
            self._credentials.retire(self._front)  # OpenSSL now remembers a session that a client could come back with
        der = self._tls.getpeercert(binary_form=True)
        fields = self._tls.getpeercert()
        if self._tls.session_reused or der is None or not fields:
            raise HandshakeFailed("the TLS handshake failed", detail="no certificate was proven anew")
        not_after = ssl.cert_time_to_seconds(str(fields["notAfter"]))
        return Peer(Thumbprint(hashlib.sha256(der).digest()), UnixTime(not_after))
