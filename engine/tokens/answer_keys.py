"""Signing what this node answers: introspection answers (RFC 9701) and whatever else names its own `typ`.

A key of this kind signs ES256 and nothing else, under a header that it writes itself: it cannot make an access
token, because that `typ` is refused here and its `kid` is in no set of token keys. P-256, because answers are signed
on every request: a signature takes 20 µs where PS256 takes 320 (the opposite of tokens, which are mostly verified).
"""

import base64
import binascii
import re
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from engine.errors import Fault, Kind
from engine.tokens.jws import encode_part
from engine.tokens.keys import Jwk

ALGORITHM: Final = "ES256"
# Types of what is signed elsewhere, by other keys; lower case, without `application/`.
FOREIGN_TYPES: Final = frozenset({"at+jwt", "jwt", "secevent+jwt", "ccs-event-key+jwt", "dpop+jwt", "statuslist+jwt"})
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}\+jwt")  # RFC 8725 section 3.11: explicit, and never bare `JWT`

_ECDSA: Final = ec.ECDSA(SHA256())  # one object for all calls: making it costs a microsecond


class BadAnswerKey(Fault):
    """What is there is no P-256 private key in unencrypted PEM."""

    kind = Kind.INVALID


class AnswerSigner(Protocol):
    """A key that signs this node's answers and nothing else. May be a hardware module or a key service."""

    @property
    def kid(self) -> str:
        """The RFC 7638 thumbprint of the public half, base64url, as it stands in the issuer's key set."""

    def sign(self, typ: str, claims: bytes) -> bytes:
        """The compact JWS over claims (a JSON object, already encoded), ASCII. typ: the header's.

        Raises ValueError for a type that answers do not have: a mistake in the calling code.
        """


class PemAnswerSigner:
    """A P-256 key held in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise BadAnswerKey("answer keys are on P-256")
        self._sign = key.sign
        self.public = public_jwk(key.public_key())
        self._heads: dict[str, bytes] = {}

    @classmethod
    def from_pem(cls, pem: bytes) -> "PemAnswerSigner":
        """Read PKCS #8 PEM. Raises BadAnswerKey."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
            raise BadAnswerKey("this is no unencrypted PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadAnswerKey("answer keys are on P-256")
        return cls(key)

    @property
    def kid(self) -> str:
        """See AnswerSigner."""
        return self.public.kid

    def sign(self, typ: str, claims: bytes) -> bytes:
        """See AnswerSigner."""
        head = self._heads.get(typ) or self._head(typ)
        signed = head + base64.urlsafe_b64encode(claims).rstrip(b"=")
        r, s = decode_dss_signature(self._sign(signed, _ECDSA))
        raw = binascii.b2a_base64(r.to_bytes(32) + s.to_bytes(32), newline=False)  # RFC 7518 section 3.4
        return signed + b"." + raw[:86].translate(_TO_BASE64URL)

    def _head(self, typ: str) -> bytes:
        """The encoded header and its dot; one for each type, kept."""
        if not _TYPE.fullmatch(typ) or typ in FOREIGN_TYPES:
            raise ValueError(f"answers are not signed as {typ!r}")
        header = msgspec.json.encode({"typ": typ, "alg": ALGORITHM, "kid": self.kid})
        head = self._heads[typ] = encode_part(header) + b"."
        return head


_TO_BASE64URL: Final = bytes.maketrans(b"+/", b"-_")


def new_answer_key() -> bytes:
    """A fresh key as PKCS #8 PEM, unencrypted: the file's mode protects it."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_jwk(key: ec.EllipticCurvePublicKey) -> Jwk:
    """The public half as it is registered and published. Its `kid` is its thumbprint."""
    point = key.public_numbers()
    x, y = (encode_part(value.to_bytes(32)).decode() for value in (point.x, point.y))
    jwk = Jwk(kty="EC", use="sig", alg=ALGORITHM, crv="P-256", x=x, y=y)
    return msgspec.structs.replace(jwk, kid=encode_part(jwk.thumbprint()).decode())
