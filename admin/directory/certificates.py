"""Transport certificates as the directory registers them: base64 of DER in, thumbprint and end of life out."""

import base64
import hashlib
from typing import Annotated

from cryptography import x509
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.records import Certificate, Thumbprint
from engine.errors import Fault, Kind

EncodedCertificate = Annotated[str, Meta(max_length=4096, pattern="^[A-Za-z0-9+/]+={0,2}$")]


class InvalidCertificate(Fault):
    """Not an X.509 certificate in DER, base64-encoded."""

    kind = Kind.INVALID


def certificate_of(encoded: str) -> Certificate:
    """Read one certificate in the form of a member of `x5c` (RFC 7515 section 4.1.6). Raises InvalidCertificate."""
    try:
        der = base64.b64decode(encoded, validate=True)
        not_after = x509.load_der_x509_certificate(der).not_valid_after_utc
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidCertificate("certificates: not a certificate in base64 of DER") from error
    return Certificate(Thumbprint(hashlib.sha256(der).digest()), UnixTime(int(not_after.timestamp())))
