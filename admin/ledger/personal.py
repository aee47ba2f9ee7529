"""Personal fields: encrypted under a key of the person's own, which can be destroyed.

AES-256-GCM twice: the wrapping key (a file, outside the database) wraps each person's key, the person's key
encrypts the person's fields. The person, the subject and its version are bound in, so that a ciphertext cannot be
moved to another event. A ciphertext starts with the id of its key: one whose key was erased is told apart from
one that was tampered with, also when the person has a new key since.
"""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.config import BadConfig, read_private
from engine.errors import Fault, Kind

KEY_BYTES: Final = 32
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12  # what GCM is defined for; random is safe up to 2**32 messages a key (NIST SP 800-38D 8.3)
_REMEMBERED: Final = 50_000  # unwrapped keys kept ready: about 30 MB

_CHECKED: Final = b"ccs.person_wrapping_key.check.1"

_encode = msgspec.msgpack.Encoder().encode


class PersonalBroken(Fault):
    """A person's key or fields fail their check: tampered with, or the wrong wrapping key."""

    kind = Kind.BROKEN


class PersonKey(msgspec.Struct, frozen=True, gc=False):
    """A row of `person_keys`."""

    person_id: str
    key_id: bytes
    wrapped_key: bytes  # nonce and ciphertext


class Safe:
    """Makes, wraps and uses persons' keys. Thread-safe; what it remembers is found only through a stored row."""

    def __init__(self, wrapping_key: bytes) -> None:
        """wrapping_key: 32 bytes."""
        self._wrapping = AESGCM(wrapping_key)
        self.check_value: Final = hmac.digest(wrapping_key, _CHECKED, hashlib.sha256)  # tells keys apart, reveals none
        self._unwrapped: dict[PersonKey, AESGCM] = {}

    @classmethod
    def from_file(cls, path: Path) -> "Safe":
        """Read the wrapping key: a file of exactly 32 raw bytes. Raises BadConfig."""
        raw = read_private(path)
        if len(raw) != KEY_BYTES:
            raise BadConfig(f"{path}: a key of {KEY_BYTES} raw bytes is needed")
        return cls(raw)

    def new_key(self, person_id: str) -> PersonKey:
        """Draw a key for a person."""
        drawn = os.urandom(_NONCE_BYTES + _KEY_ID_BYTES + KEY_BYTES)
        nonce, key_id, raw = drawn[:_NONCE_BYTES], drawn[_NONCE_BYTES:-KEY_BYTES], drawn[-KEY_BYTES:]
        wrapped = self._wrapping.encrypt(nonce, raw, _wrapped_for(person_id, key_id))
        key = PersonKey(person_id, key_id, nonce + wrapped)
        self._remember(key, AESGCM(raw))
        return key

    def seal(self, key: PersonKey, subject: str, version: int, plaintext: bytes) -> bytes:
        """Encrypt a person's fields for one version of one subject. Returns key id, nonce, ciphertext.

        Raises PersonalBroken when the key's row does not open.
        """
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._open(key).encrypt(nonce, plaintext, _encode((key.person_id, subject, version)))
        return key.key_id + nonce + sealed

    def unseal(self, key: PersonKey | None, subject: str, version: int, ciphertext: bytes) -> bytes | None:
        """Decrypt. key: the person's now; None when it, or the one this was sealed with, was erased.

        Raises PersonalBroken.
        """
        if key is None or ciphertext[:_KEY_ID_BYTES] != key.key_id:
            return None
        nonce = ciphertext[_KEY_ID_BYTES : _KEY_ID_BYTES + _NONCE_BYTES]
        sealed = ciphertext[_KEY_ID_BYTES + _NONCE_BYTES :]
        try:
            return self._open(key).decrypt(nonce, sealed, _encode((key.person_id, subject, version)))
        except (InvalidTag, ValueError) as error:
            raise PersonalBroken("a person's fields could not be decrypted", detail=subject) from error

    def opens(self, key: PersonKey) -> bool:
        """Whether a person's key was wrapped with this wrapping key."""
        try:
            self._open(key)
        except PersonalBroken:
            return False
        return True

    def forget(self) -> None:
        """Drop every unwrapped key from memory; after an erasure."""
        self._unwrapped.clear()

    def _open(self, key: PersonKey) -> AESGCM:
        return self._unwrapped.get(key) or self._unwrap(key)

    def _unwrap(self, key: PersonKey) -> AESGCM:
        nonce, sealed = key.wrapped_key[:_NONCE_BYTES], key.wrapped_key[_NONCE_BYTES:]
        try:
            raw = self._wrapping.decrypt(nonce, sealed, _wrapped_for(key.person_id, key.key_id))
        except (InvalidTag, ValueError) as error:
            raise PersonalBroken("a person's key could not be unwrapped") from error
        opened = AESGCM(raw)
        self._remember(key, opened)
        return opened

    def _remember(self, key: PersonKey, opened: AESGCM) -> None:
        if len(self._unwrapped) >= _REMEMBERED:
            self._unwrapped.clear()  # cheaper than keeping an order; whoever is still active is back with the next use
        self._unwrapped[key] = opened


def _wrapped_for(person_id: str, key_id: bytes) -> bytes:
    return _encode(("ccs.person_key.1", person_id, key_id))
