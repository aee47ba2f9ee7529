"""What private keys may be asked to do: one typed operation for each kind of key, and no "sign these bytes".

A token key can only ever sign an access token, because its port takes claims and writes the header itself; the
same holds for certificates and checkpoints. Files are one implementation; a hardware module or a cloud's key
service is another, behind the same ports.
"""

from pathlib import Path
from typing import Final, Protocol

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from admin.pki.key_files import BadKeyFile, read_private, write_private
from engine.tokens.claims import AccessToken
from engine.tokens.jws import encode_part
from engine.tokens.keys import MAX_RSA_BITS, MIN_RSA_BITS, Jwk

TokenKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA_BITS: Final = 2048  # 112 bits of strength for tokens that live ten minutes; larger keys slow every introspection
_CHECKPOINT_DOMAIN: Final = b"ccs.ledger.checkpoint\x00"  # nothing else that this kind of key signs begins so

_encode = msgspec.json.Encoder().encode


class TokenSigner(Protocol):
    """A key that signs access tokens and nothing else."""

    @property
    def public(self) -> Jwk:
        """The public half as it stands in the key set: `kid`, `alg`, `use`."""

    def sign_token(self, claims: AccessToken) -> bytes:
        """The token in compact form, ASCII, with `typ: at+jwt`. Blocks: call it in a thread for more than a few."""


class CertificateSigner(Protocol):
    """A certificate authority's key."""

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey: ...

    def sign_certificate(self, draft: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate that a profile of `admin.pki.profiles` drew up."""


class CheckpointSigner(Protocol):
    """A key that signs the ledger's checkpoints."""

    @property
    def public_pem(self) -> bytes:
        """SubjectPublicKeyInfo, for `verify_checkpoint`."""

    def sign_checkpoint(self, statement: bytes) -> bytes:
        """Sign the encoded (incarnation, position, hash): ECDSA P-256 with SHA-256, 64 bytes r and s."""


class FileTokenSigner:
    """A token key held in memory. The kind of key fixes the algorithm: RSA PS256, P-256 ES256, Ed25519 EdDSA."""

    def __init__(self, key: TokenKey) -> None:
        self._key = key
        self.public = public_jwk(key.public_key())
        header = {"typ": "at+jwt", "alg": self.public.alg, "kid": self.public.kid}
        self._head = encode_part(_encode(header)) + b"."

    @classmethod
    def load(cls, path: Path) -> "FileTokenSigner":
        """Read a PEM (PKCS #8) file. Raises BadKeyFile, also for a kind or size of key that tokens do not use."""
        key = _load(path)
        if not isinstance(key, TokenKey):
            raise BadKeyFile(f"{path}: holds another kind of key than tokens are signed with")
        _refuse_weak(key, path)
        return cls(key)

    def sign_token(self, claims: AccessToken) -> bytes:
        """See TokenSigner."""
        signed = self._head + encode_part(_encode(claims))
        return signed + b"." + encode_part(sign_jws(self._key, signed))


class FileCertificateSigner:
    """An authority's P-256 key held in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "FileCertificateSigner":
        """Read a PEM file with a P-256 key. Raises BadKeyFile."""
        return cls(_load_p256(path))

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """See CertificateSigner."""
        return self._key.public_key()

    def sign_certificate(self, draft: x509.CertificateBuilder) -> x509.Certificate:
        """See CertificateSigner."""
        return draft.sign(self._key, SHA256())


class FileCheckpointSigner:
    """A checkpoint key, P-256, held in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> "FileCheckpointSigner":
        """Read a PEM file with a P-256 key. Raises BadKeyFile."""
        return cls(_load_p256(path))

    @property
    def public_pem(self) -> bytes:
        """See CheckpointSigner."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign_checkpoint(self, statement: bytes) -> bytes:
        """See CheckpointSigner."""
        return sign_jws(self._key, _CHECKPOINT_DOMAIN + statement)


def verify_checkpoint(public_pem: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether a checkpoint key signed this statement. public_pem: a P-256 key; anything else verifies nothing."""
    try:
        key = serialization.load_pem_public_key(public_pem)
        if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        key.verify(encode_dss_signature(r, s), _CHECKPOINT_DOMAIN + statement, ec.ECDSA(SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def sign_jws(key: TokenKey, signed: bytes) -> bytes:
    """A signature in the form of RFC 7518 sections 3.4 and 3.5 and RFC 8037 section 3.1."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size), SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)
    return key.sign(signed)


def public_jwk(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> Jwk:
    """The public key as a JWK. Its `kid` is its RFC 7638 thumbprint, so that no name ever stands for two keys."""
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        jwk = Jwk(kty="RSA", use="sig", alg="PS256", n=_integer_text(numbers.n), e=_integer_text(numbers.e))
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        x, y = (_text(value.to_bytes(32)) for value in (point.x, point.y))
        jwk = Jwk(kty="EC", use="sig", alg="ES256", crv="P-256", x=x, y=y)
    else:
        jwk = Jwk(kty="OKP", use="sig", alg="EdDSA", crv="Ed25519", x=_text(key.public_bytes_raw()))
    return msgspec.structs.replace(jwk, kid=_text(jwk.thumbprint()))


def generate_token_key(path: Path, alg: str = "PS256") -> FileTokenSigner:
    """Make a token key in a new file. alg: PS256, ES256 or EdDSA (ValueError for another). Raises BadKeyFile."""
    key = new_token_key(alg)
    write_private(path, private_pem(key))
    return FileTokenSigner(key)


def generate_p256_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key in a new file: for a checkpoint signer, an authority, a TLS certificate. Raises BadKeyFile."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(path, private_pem(key))
    return key


def new_token_key(alg: str) -> TokenKey:
    """A fresh key for an algorithm of ours. Raises ValueError for another."""
    if alg == "PS256":
        return rsa.generate_private_key(public_exponent=65_537, key_size=RSA_BITS)
    if alg == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"tokens are not signed with {alg}")


def private_pem(key: TokenKey) -> bytes:
    """PKCS #8 PEM, unencrypted: the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(path: Path) -> PrivateKeyTypes:
    pem = read_private(path)
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
        raise BadKeyFile(f"{path}: holds no unencrypted PEM private key") from error


def _load_p256(path: Path) -> ec.EllipticCurvePrivateKey:
    key = _load(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadKeyFile(f"{path}: holds another kind of key than a P-256 one")
    _refuse_weak(key, path)
    return key


def _refuse_weak(key: TokenKey, path: Path) -> None:
    if isinstance(key, rsa.RSAPrivateKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise BadKeyFile(f"{path}: RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1):
        raise BadKeyFile(f"{path}: elliptic curve keys are on P-256")


def _text(raw: bytes) -> str:
    return encode_part(raw).decode()


def _integer_text(number: int) -> str:
    return _text(number.to_bytes((number.bit_length() + 7) // 8))
