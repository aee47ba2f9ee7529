"""Client certificates that a TLS-ending proxy forwards in a header (RFC 9440), on a listener of its own.

The proxy proves itself by a certificate that is pinned in the configuration; from anybody else the header would let
everybody be anyone. What it forwards is read strictly and verified again here: a proxy that forgets to verify, or
to strip what its client sent under that name, gains nobody an identity that our authorities did not sign. Whose
certificate it is, and whether that participant may call, is asked further on, as on any other listener.
"""

import base64
import binascii
import datetime
import hashlib
import operator
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import ClassVar, Final

import msgspec
from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from engine.clock import Clock, UnixTime
from engine.config import BadConfig
from engine.consent.records import ClientId, Thumbprint
from engine.errors import Fault, Kind
from engine.listener.http1 import Headers, Request, Response
from engine.listener.media import FORWARDED
from engine.listener.refusals import INVALID_CLIENT
from engine.listener.security import SecurityEvent, SecurityEventKind, SecurityEvents
from engine.listener.serve import Handler
from engine.listener.tls import Peer

CLIENT_CERT: Final = b"client-cert"
CLIENT_CERT_CHAIN: Final = b"client-cert-chain"
MAX_DER: Final = 8_192  # bytes of one certificate
MAX_CHAIN: Final = 8  # certificates
_KEPT: Final = 4_096  # participants' certificates remembered as verified
_BROKEN: Final = (  # whatever `cryptography` raises for bytes that are no certificate, or one that breaks its own rules
    ValueError,
    TypeError,  # a name's part of a kind that its type may not have
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    x509.DuplicateExtension,
)

_READ_LATE: Final = tuple(  # parts that are read only when asked for, and may be broken
    map(operator.attrgetter, ("extensions", "subject", "issuer", "not_valid_before_utc", "not_valid_after_utc"))
)

NO_CLIENT: Final = Response(400, b'{"error":"invalid_client"}')
WRONG_CLIENT: Final = Response(401, INVALID_CLIENT)
WRONG_HOP: Final = Response(401, INVALID_CLIENT, close=True)


class BadForwarded(Fault):
    """A forwarded certificate that cannot be read, or that has no right to be one. The text names the rule."""

    kind: ClassVar[Kind] = Kind.UNAUTHENTICATED


class _Leaf(msgspec.Struct, frozen=True, gc=False):
    """A certificate whose chain was verified. until: when the first certificate of that chain ends."""

    peer: Peer
    since: UnixTime
    until: UnixTime


class ClientAuthorities:
    """The authorities whose client certificates are taken, and the certificates found to be theirs. PEM file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._store = _read_store(file)
        self._leaves: dict[bytes, _Leaf] = {}

    def reload(self) -> None:
        """Read the file again and verify everybody anew. Raises BadConfig and then goes on with what it had."""
        self._store = _read_store(self._file)
        self._leaves.clear()

    def peer(self, der: bytes, now: UnixTime) -> Peer:
        """Whom a certificate stands for. Raises BadForwarded."""
        digest = hashlib.sha256(der).digest()
        leaf = self._leaves.get(digest)
        if leaf is None:
            leaf = self._verify(der, digest, now)
            if len(self._leaves) >= _KEPT:
                self._leaves.clear()
            self._leaves[digest] = leaf
        if not leaf.since <= now <= leaf.until:  # RFC 5280 section 4.1.2.5: the period includes both ends
            raise BadForwarded("a forwarded certificate is not in its time")
        return leaf.peer

    def _verify(self, der: bytes, digest: bytes, now: UnixTime) -> _Leaf:
        certificate = read_certificate(der)
        since, until = _period(certificate)
        if not since <= now <= until:
            raise BadForwarded("a forwarded certificate is not in its time")
        try:
            chain = _verifier(self._store, now).verify(certificate, []).chain
        except verification.VerificationError as error:
            raise BadForwarded("a forwarded certificate is not of our authorities", detail=str(error)) from error
        ends = min(_period(link)[1] for link in chain)
        return _Leaf(Peer(Thumbprint(digest), until), since, ends)


class ForwardedCertificates:
    """`Handler` of the proxy's listener: finds the peer in the header and lets `handler` answer that peer.

    hops: SHA-256 of the DER of the certificates that proxies may prove themselves by.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        hops: Iterable[Thumbprint],
        authorities: ClientAuthorities,
        clock: Clock,
        security: SecurityEvents,
    ) -> None:
        self._handler = handler
        self._hops = frozenset(hops)
        self._authorities = authorities
        self._clock = clock
        self._security = security

    def __call__(self, request: Request, peer: Peer) -> Response | Awaitable[Response]:
        """Answer a request that a proxy passed on: refused as rows 2 and 3 of the introspection sheet say, or by
        the handler, which sees the request without these headers.
        """
        if peer.thumbprint not in self._hops:
            self._report("the hop is not pinned", peer)
            return WRONG_HOP
        try:
            der = read_forwarded(request.headers)
        except BadForwarded as fault:
            self._report(fault.text, peer)
            return NO_CLIENT
        if der is None:
            return NO_CLIENT
        try:
            caller = self._authorities.peer(der, self._clock.now())
        except BadForwarded as fault:
            self._report(fault.text, peer)
            return WRONG_CLIENT
        others = tuple([field for field in request.headers if field[0] not in FORWARDED])
        return self._handler(msgspec.structs.replace(request, headers=others), caller)

    def _report(self, why: str, hop: Peer) -> None:
        detail = f"{why}; hop {hop.thumbprint.hex()}"
        self._security.record(SecurityEvent(SecurityEventKind.BAD_FORWARDED_CERTIFICATE, ClientId(""), detail=detail))


def read_forwarded(headers: Headers) -> bytes | None:
    """The DER of the client's certificate; None: none was forwarded. Raises BadForwarded.

    A chain is read as strictly and then left alone: trust comes from our own file of authorities.
    """
    leaves = [value for name, value in headers if name == CLIENT_CERT]
    chains = [value for name, value in headers if name == CLIENT_CERT_CHAIN]
    if not leaves and not chains:
        return None
    if len(leaves) != 1 or len(chains) > 1:
        raise BadForwarded("not exactly one Client-Cert, or more than one Client-Cert-Chain")
    members = [member for chain in chains for member in chain.split(b",")]
    if len(members) > MAX_CHAIN:
        raise BadForwarded("a forwarded chain is too long")
    for member in members:
        read_certificate(read_byte_sequence(member.strip(b" \t")))
    return read_byte_sequence(leaves[0])


def read_byte_sequence(item: bytes) -> bytes:
    """A byte sequence (RFC 8941 section 3.3.5), bare and in the one canonical spelling. Raises BadForwarded."""
    if len(item) < 2 or item[:1] != b":" or item[-1:] != b":" or len(item) > 4 * MAX_DER // 3 + 6:
        raise BadForwarded("a forwarded certificate is no byte sequence, or too large")
    text = item[1:-1]
    try:
        octets = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadForwarded("a forwarded certificate is not base64") from error
    if base64.b64encode(octets) != text:
        raise BadForwarded("a forwarded certificate is not canonical base64")
    return octets


def read_certificate(der: bytes) -> x509.Certificate:
    """Raises BadForwarded."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        for read in _READ_LATE:
            read(certificate)
    except _BROKEN as error:
        raise BadForwarded("a forwarded certificate is no certificate") from error
    return certificate


def thumbprints(pinned: Iterable[str]) -> tuple[Thumbprint, ...]:
    """From the configuration: hexadecimal, with colons or without, as `openssl x509 -fingerprint -sha256` prints it.

    Raises BadConfig.
    """
    read = []
    for text in pinned:
        try:
            octets = bytes.fromhex(text.replace(":", ""))
        except ValueError as error:
            raise BadConfig(f"proxy-listener.pinned-thumbprints: {text} is not hexadecimal") from error
        if len(octets) != hashlib.sha256().digest_size:
            raise BadConfig(f"proxy-listener.pinned-thumbprints: {text} is not a SHA-256 thumbprint")
        read.append(Thumbprint(octets))
    if not read:
        raise BadConfig("proxy-listener.pinned-thumbprints: name at least one")
    return tuple(read)


def _read_store(file: Path) -> verification.Store:
    try:
        return verification.Store(x509.load_pem_x509_certificates(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise BadConfig(f"{file}: {error}") from error


def _period(certificate: x509.Certificate) -> tuple[UnixTime, UnixTime]:
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return UnixTime(int(since.timestamp())), UnixTime(int(until.timestamp()))


def _verifier(store: verification.Store, now: UnixTime) -> verification.ClientVerifier:
    """As OpenSSL judges clients on the other listener: the web's rules for names do not apply to participants."""
    anyhow, everything = verification.Criticality.AGNOSTIC, verification.ExtensionPolicy.permit_all()
    any_client = everything.may_be_present(x509.ExtendedKeyUsage, anyhow, _is_for_clients)
    any_client = any_client.may_be_present(x509.BasicConstraints, anyhow, _is_no_authority)
    any_authority = everything.require_present(x509.BasicConstraints, anyhow, _is_authority)
    return (
        verification.PolicyBuilder()
        .store(store)
        .time(datetime.datetime.fromtimestamp(now, datetime.UTC))
        .extension_policies(ca_policy=any_authority, ee_policy=any_client)
        .build_client_verifier()
    )


def _is_for_clients(
    _policy: verification.Policy, _certificate: x509.Certificate, usages: x509.ExtendedKeyUsage | None
) -> None:
    if usages is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise ValueError("not for clients")


def _is_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("not an authority")


def _is_no_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("an authority")
