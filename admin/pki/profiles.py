"""What the authority's certificates look like: one function a kind, from names and a time to an unsigned draft.

Profiles draw up, the authority signs; neither reads a clock. Numbers of this module are the policy, each with its
source; RFC 5280 section 4.2 gives the extensions.
"""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.errors import Fault, Kind

ORGANISATION: Final = "CCS sandbox"
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
CLIENT_URI: Final = "urn:ccs:client:"  # + client_id: the one name that `tls_client_auth_san_uri` compares

LEAF_LIFE: Final = timedelta(days=365)  # transport certificates: 13 months at most (nfr section 8); the rest is overlap
AUTHORITY_LIFE: Final = timedelta(days=3650)  # a sandbox outlives no decade
BACKDATED: Final = timedelta(minutes=5)  # clocks of callers that run late
_CLIENT_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")  # a common name has 64 characters at most (RFC 5280)


class BadSubject(Fault):
    """A name that no certificate of ours is made out to."""

    kind = Kind.INVALID


def authority_draft(key: ec.EllipticCurvePublicKey, now: UnixTime) -> x509.CertificateBuilder:
    """The sandbox authority's own certificate: signs leaves only, and lists of revoked ones."""
    name = _name("CCS sandbox authority")
    draft = _draft(name, key, now, AUTHORITY_LIFE).issuer_name(name)
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return draft.add_extension(_usage(authority=True), critical=True)


def server_draft(
    names: Sequence[str], key: ec.EllipticCurvePublicKey, issuer: x509.Certificate, now: UnixTime
) -> x509.CertificateBuilder:
    """A TLS server's certificate. names: DNS names and IP addresses, at least one. Raises BadSubject."""
    if not names:
        raise BadSubject("a server certificate needs at least one name")
    alternatives = x509.SubjectAlternativeName([_server_name(name) for name in names])
    return _leaf(names[0], key, issuer, now, alternatives, ExtendedKeyUsageOID.SERVER_AUTH)


def client_draft(
    client_id: ClientId, key: ec.EllipticCurvePublicKey, issuer: x509.Certificate, now: UnixTime
) -> x509.CertificateBuilder:
    """A participant's transport certificate: CN = client_id, and the same in a URI. Raises BadSubject."""
    if not _CLIENT_ID.fullmatch(client_id):
        raise BadSubject("a client id has 1 to 40 of a-z, 0-9, dot, hyphen and underscore")
    alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(CLIENT_URI + client_id)])
    return _leaf(client_id, key, issuer, now, alternatives, ExtendedKeyUsageOID.CLIENT_AUTH)


def _leaf(
    common_name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    now: UnixTime,
    alternatives: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    issuer_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key)
    return (
        _draft(_name(common_name), key, now, LEAF_LIFE)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(authority, critical=False)
    )


def _draft(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: UnixTime, life: timedelta
) -> x509.CertificateBuilder:
    issued = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 159 random bits
        .not_valid_before(issued - BACKDATED)
        .not_valid_after(issued + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,  # TLS 1.3 and ECDHE only ever sign
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:  # not ASCII
        raise BadSubject(f"{name!r} is no server name") from error
