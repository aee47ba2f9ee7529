"""The issuer's public keys. Each key knows its one algorithm; a token never chooses it (RFC 8725 section 3.1).

RSA keys verify PS256, P-256 keys ES256, Ed25519 keys EdDSA, and nothing else. A set that holds a private or a
symmetric key is refused as a whole, because somebody published what must never be published.
"""

import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from engine.errors import Fault, Kind
from engine.tokens import jws

MIN_RSA_BITS: Final = 2048  # FAPI 2.0 Security Profile section 5.4.1
MAX_RSA_BITS: Final = 4096  # verification time grows with the square; nobody may slow us down by a huge key
RSA_EXPONENT: Final = 65_537  # what everybody makes; small ones have a history of attacks, large ones are slow
MAX_SET_BYTES: Final = 65_536  # oauth-endpoints: a key set is at most 64 KiB
_REMEMBERED_HEADERS: Final = 64  # a signer writes one header per key; more than a handful never occur

# RFC 7518 section 3.5: the salt is as long as the hash. One object for all calls: making it costs a microsecond.
_PSS: Final = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=SHA256.digest_size)
_SHA256: Final = SHA256()
_ECDSA: Final = ec.ECDSA(SHA256())

T = TypeVar("T")
Check = Callable[[bytes, bytes], None]  # (signature, signed bytes); raises InvalidSignature


class BadKeySet(Fault):
    """A key set that must not be used: keep the one before it."""

    kind = Kind.INVALID


class Jwk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON Web Key (RFC 7517), as far as we read and write it. Unknown members are ignored (section 4)."""

    kty: str
    kid: str = ""
    use: str = ""
    alg: str = ""
    key_ops: tuple[str, ...] = ()
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    # Only ever looked at in order to refuse the set: private members of RSA, EC, OKP and AKP, and the symmetric key.
    d: object = None
    p: object = None
    q: object = None
    dp: object = None
    dq: object = None
    qi: object = None
    oth: object = None
    k: object = None
    priv: object = None

    def is_secret(self) -> bool:
        """Whether any part of it ought never to have left its owner."""
        parts = (self.d, self.p, self.q, self.dp, self.dq, self.qi, self.oth, self.k, self.priv)
        return self.kty == "oct" or any(part is not None for part in parts)

    def thumbprint(self) -> bytes:
        """RFC 7638: SHA-256 over the required members in lexical order."""
        members = {
            "RSA": {"e": self.e, "kty": self.kty, "n": self.n},
            "EC": {"crv": self.crv, "kty": self.kty, "x": self.x, "y": self.y},
            "OKP": {"crv": self.crv, "kty": self.kty, "x": self.x},
        }[self.kty]
        return hashlib.sha256(msgspec.json.encode(members)).digest()


class JwkSet(msgspec.Struct, frozen=True):
    """RFC 7517 section 5."""

    keys: tuple[Jwk, ...]


class PublishedKeys(msgspec.Struct, frozen=True):
    """The body of `GET /feed/keys`: whose keys they are, and the keys."""

    issuer: str
    jwks: JwkSet


class VerificationKey(msgspec.Struct, frozen=True, gc=False):
    """A public key with the one algorithm it is for. check: raises InvalidSignature."""

    kid: str
    alg: str
    thumbprint: bytes  # RFC 7638
    check: Check

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """Whether the signature over these bytes is this key's."""
        try:
            self.check(signature, signed)
        except InvalidSignature:
            return False
        return True


class KeyFault(msgspec.Struct, frozen=True, gc=False):
    """Why no key of the set fits a header. wrong_algorithm: the kid is ours, but its key signs otherwise."""

    wrong_algorithm: bool


class KeySet:
    """The keys of one issuer. Never changes: a rotation makes another set (`replace`).

    It also remembers the encoded headers under which signatures have really been verified. Those are few, one or
    two for each key, so that a token's header is seldom decoded; nobody but the issuer can add to them.
    """

    def __init__(self, issuer: str, keys: tuple[VerificationKey, ...]) -> None:
        self.issuer = issuer
        self.kids = frozenset(key.kid for key in keys)
        self.thumbprints = frozenset(key.thumbprint for key in keys)
        # Two keys under one kid are told apart by their algorithm (FAPI 2.0 Security Profile section 5.4.3).
        self._keys = {(key.kid, key.alg): key for key in keys}
        if len(self._keys) != len(keys):
            raise BadKeySet("two keys of one algorithm share a kid")
        if not keys:
            raise BadKeySet("the key set holds no key that can verify a token")
        self._by_header: dict[bytes, VerificationKey] = {}

    @classmethod
    def from_jwks(cls, raw: bytes, issuer: str) -> "KeySet":
        """Read a JSON Web Key Set. Keys of unknown types or for other uses are left out.

        Raises BadKeySet: not a key set, a private or symmetric key in it, a weak or impossible key, no usable key.
        """
        return cls._from_set(_read(raw, JwkSet), issuer)

    @classmethod
    def from_published(cls, raw: bytes, issuer: str) -> "KeySet":
        """Read the body of `GET /feed/keys`. Raises BadKeySet also when it speaks of another issuer."""
        published = _read(raw, PublishedKeys)
        if published.issuer != issuer:
            raise BadKeySet("the keys are another issuer's", detail=published.issuer)
        return cls._from_set(published.jwks, issuer)

    @classmethod
    def _from_set(cls, found: JwkSet, issuer: str) -> "KeySet":
        if any(jwk.is_secret() for jwk in found.keys):
            raise BadKeySet("the key set holds a private or symmetric key")
        return cls(issuer, tuple(key for jwk in found.keys if (key := _verification_key(jwk)) is not None))

    def replace(self, raw: bytes) -> "KeySet":
        """The same issuer's next set; this one is left as it is. Raises BadKeySet: then go on with this one."""
        return KeySet.from_jwks(raw, self.issuer)

    def for_header(self, part: bytes) -> VerificationKey | None:
        """The key of an encoded header that has been verified before; None: read the header."""
        return self._by_header.get(part)

    def find(self, header: jws.Header) -> VerificationKey | KeyFault:
        """The key that a header names, if its algorithm is the key's own."""
        key = self._keys.get((header.kid, header.alg))
        return KeyFault(header.kid in self.kids) if key is None else key

    def remember(self, part: bytes, key: VerificationKey) -> None:
        """Note an encoded header whose signature has just been verified with this key."""
        if len(self._by_header) < _REMEMBERED_HEADERS:
            self._by_header[part] = key


def _read(raw: bytes, kind: type[T]) -> T:
    if len(raw) > MAX_SET_BYTES:
        raise BadKeySet("the key set is too long")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadKeySet("this is not a key set", detail=str(error)) from error


def _verification_key(jwk: Jwk) -> VerificationKey | None:
    """None: no key for tokens of ours, or one that nothing can name. Raises BadKeySet for a weak or impossible one."""
    kind = _KINDS.get((jwk.kty, jwk.crv))
    if kind is None or not jwk.kid or jwk.use not in {"", "sig"} or (jwk.key_ops and "verify" not in jwk.key_ops):
        return None
    alg, make = kind
    if jwk.alg not in {"", alg}:
        return None
    try:
        check = make(jwk)
    except ValueError as error:
        raise BadKeySet("the key set holds an impossible key", detail=f"{jwk.kid}: {error}") from error
    return VerificationKey(jwk.kid, alg, jwk.thumbprint(), check)


def _rsa(jwk: Jwk) -> Check:
    modulus, exponent = _integer(jwk.n), _integer(jwk.e)
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS or exponent != RSA_EXPONENT:
        raise ValueError("RSA keys have 2048 to 4096 bits and the exponent 65537")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return lambda signature, signed: key.verify(signature, signed, _PSS, _SHA256)


def p256_check(jwk: Jwk) -> Check:
    """What verifies ES256 signatures of a P-256 key. Raises ValueError for a key that cannot be."""
    x, y = _octets(jwk.x), _octets(jwk.y)
    if len(x) != 32 or len(y) != 32:
        raise ValueError("P-256 coordinates have 32 bytes")  # RFC 7518 section 6.2.1.2: leading zeros included
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)  # refuses points off the curve

    def check(signature: bytes, signed: bytes) -> None:
        if len(signature) != 64:  # RFC 7518 section 3.4: R and S, 32 bytes each
            raise InvalidSignature
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        key.verify(encode_dss_signature(r, s), signed, _ECDSA)

    return check


def _ed25519(jwk: Jwk) -> Check:
    return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk.x)).verify


# RFC 7518 section 6, RFC 8037 section 2. Curves and types that are not here are not ours: such keys are left out.
_KINDS: Final[dict[tuple[str, str], tuple[str, Callable[[Jwk], Check]]]] = {
    ("RSA", ""): ("PS256", _rsa),
    ("EC", "P-256"): ("ES256", p256_check),
    ("OKP", "Ed25519"): ("EdDSA", _ed25519),
}


def _octets(text: str) -> bytes:
    raw = jws.decode_part(text.encode())
    if not raw:
        raise ValueError("a member is not base64url")
    return raw


def _integer(text: str) -> int:
    return int.from_bytes(_octets(text))
