"""Transport certificates as the directory registers them: a PEM text in, thumbprint and end of life out."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from engine.clock import UnixTime
from engine.consent.records import Certificate, Thumbprint
from engine.errors import Fault, Kind


class InvalidCertificate(Fault):
    """Not exactly one X.509 certificate in PEM."""

    kind = Kind.INVALID


def certificate_of(pem: str) -> Certificate:
    """Read one certificate (RFC 7468 section 5). Raises InvalidCertificate, also where a key or a second one is."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidCertificate("not a certificate in PEM", detail=str(error)) from error
    if len(certificates) != 1 or "PRIVATE KEY" in pem:
        raise InvalidCertificate("send exactly one certificate, and never a key")
    (certificate,) = certificates
    der = certificate.public_bytes(Encoding.DER)
    not_after = UnixTime(int(certificate.not_valid_after_utc.timestamp()))
    return Certificate(Thumbprint(hashlib.sha256(der).digest()), not_after)
