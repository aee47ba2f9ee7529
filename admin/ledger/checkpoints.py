"""Signed checkpoints: "at this position of this incarnation the hash was this", by a key outside the database.

Whoever can rewrite the whole database can rewrite the whole chain; a checkpoint that was kept elsewhere, or whose
key the database does not hold, shows it.
"""

import hashlib
from pathlib import Path
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from admin.ledger.store import Head
from engine.clock import UnixTime
from engine.config import BadConfig, read_private

_FORM: Final = "ccs.ledger.checkpoint.1"
_COORDINATE_BYTES: Final = 32  # of P-256; ES256 signatures are r and s side by side (RFC 7518 section 3.4)
_ECDSA: Final = ec.ECDSA(hashes.SHA256())

_encode = msgspec.msgpack.Encoder().encode


class Checkpoint(msgspec.Struct, frozen=True):
    """A row of `checkpoints`; encodes to JSON for keeping elsewhere."""

    incarnation: str
    seq: int
    hash: bytes
    signed_at: UnixTime
    kid: str
    signature: bytes

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return _encode((_FORM, self.incarnation, self.seq, self.hash, self.signed_at, self.kid))


class CheckpointSigner(Protocol):
    """The one operation the ledger needs of the checkpoint key; a file here, a hardware module elsewhere."""

    @property
    def kid(self) -> str:
        """Names the key."""

    def sign(self, message: bytes) -> bytes:
        """ES256 (RFC 7518 section 3.4): 64 bytes."""


class CheckpointKey:
    """A P-256 key: signs, and checks what it signed."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        der = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.kid = hashlib.sha256(der).hexdigest()[:16]

    @classmethod
    def from_file(cls, path: Path) -> "CheckpointKey":
        """Read a PEM file without password. Raises BadConfig."""
        try:
            key = serialization.load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError) as error:
            raise BadConfig(f"{path}: not a PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise BadConfig(f"{path}: an EC key on P-256 is needed")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """ES256."""
        r, s = utils.decode_dss_signature(self._key.sign(message, _ECDSA))
        return r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """True if this key signed the message."""
        if len(signature) != 2 * _COORDINATE_BYTES:
            return False
        r, s = (int.from_bytes(signature[i : i + _COORDINATE_BYTES], "big") for i in (0, _COORDINATE_BYTES))
        try:
            self._public.verify(utils.encode_dss_signature(r, s), message, _ECDSA)
        except InvalidSignature:
            return False
        return True


def sign_checkpoint(signer: CheckpointSigner, head: Head, now: UnixTime) -> Checkpoint:
    """Vouch for the head."""
    bare = Checkpoint(head.position.incarnation, head.position.seq, head.hash, now, signer.kid, b"")
    return msgspec.structs.replace(bare, signature=signer.sign(bare.signed_bytes()))


def fault_in(checkpoint: Checkpoint, key: CheckpointKey) -> str | None:
    """What is wrong with a checkpoint's signature; None if nothing is."""
    if checkpoint.kid != key.kid:
        return f"checkpoint {checkpoint.seq} was signed by another key ({checkpoint.kid})"
    if not key.verify(checkpoint.signed_bytes(), checkpoint.signature):
        return f"the signature of checkpoint {checkpoint.seq} is wrong"
    return None
