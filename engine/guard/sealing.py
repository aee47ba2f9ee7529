"""How what a guard keeps is sealed: nothing of it can be read, moved, cut or made without the key.

From the store's key and the EDP's own id three keys are derived (HKDF, RFC 5869): one that hides names, one that seals,
one that sums up. A row is AES-256-GCM under a key of its own, derived from half of a random 24 bytes, so that random
nonces never run out however much is written; bound into it are the form, the kind, the row's key, its rank and when it
is due. The sum over all rows shows whether one is missing, more than it should be, or from an earlier time.
"""

import enum
import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.config import BadConfig, read_private
from engine.errors import Fault, Kind

KEY_BYTES: Final = 32
FORM: Final = b"ccs.guard.1"  # of everything that is sealed here; a later form says another name
_RANDOM: Final = 24
_HALF: Final = 12
_TAG: Final = 16
_MODULUS: Final = 1 << 256


class Unsealed(Fault):
    """What stands there was not sealed for this place with this key, or was changed since."""

    kind = Kind.BROKEN


class Sort(enum.IntEnum):
    """What a row tells of."""

    HEAD = 0
    TOKEN = 1
    CONSENT = 2
    PARTY = 3
    EVIDENCE = 4
    KEYS = 5
    OUTAGE = 6
    EVENT = 7
    EVENT_FACTS = 8


class Place(msgspec.Struct, frozen=True):
    """Where a row stands. rank: which go first when room is needed; due: by which time, or in which order."""

    key: bytes
    rank: int
    due: int

    def bound(self, sort: Sort) -> bytes:
        """What of it is bound into the row."""
        return b"%b%c%b%c%b" % (FORM, sort, self.key, self.rank, self.due.to_bytes(8, "big", signed=True))


class StoreKey:
    """The keys of one store of one EDP. check: tells keys apart, reveals none."""

    def __init__(self, raw: bytes, owner: str, use: str) -> None:
        """raw: 32 bytes. owner: the EDP's `client_id`. use: a word for what is kept; each use has keys of its own."""
        said = b"\x00".join((FORM, use.encode(), owner.encode()))
        derived = HKDF(SHA256(), 4 * KEY_BYTES, None, said).derive(raw)
        hiding, sealing, summing, checking = (derived[at : at + KEY_BYTES] for at in range(0, 128, KEY_BYTES))
        self._hiding = hmac.new(hiding, digestmod=hashlib.sha256)
        self._sealing = hmac.new(sealing, digestmod=hashlib.sha256)
        self._summing = hmac.new(summing, digestmod=hashlib.sha256)
        self.check: Final = checking[:8]

    @classmethod
    def from_file(cls, path: Path, owner: str, use: str) -> "StoreKey":
        """Read a file of exactly 32 raw bytes, for its owner alone. Raises BadConfig."""
        raw = read_private(path)
        if len(raw) != KEY_BYTES:
            raise BadConfig(f"{path}: a key of {KEY_BYTES} raw bytes is needed; run: openssl rand -out {path} 32")
        return cls(raw, owner, use)

    def hidden(self, sort: Sort, name: bytes) -> bytes:
        """Under which 16 bytes a thing is kept: whoever does not hold the key cannot tell which thing it is."""
        return _mac(self._hiding, bytes((sort,)) + name)[:16]

    def seal(self, sort: Sort, place: Place, plain: bytes) -> bytes:
        """24 random bytes, ciphertext, tag."""
        drawn = os.urandom(_RANDOM)
        cipher = AESGCM(_mac(self._sealing, drawn[:_HALF]))
        return drawn + cipher.encrypt(drawn[_HALF:], plain, place.bound(sort))

    def open(self, sort: Sort, place: Place, sealed: bytes) -> bytes:
        """What was sealed for this place. Raises Unsealed."""
        cipher = AESGCM(_mac(self._sealing, sealed[:_HALF]))
        try:
            return cipher.decrypt(sealed[_HALF:_RANDOM], sealed[_RANDOM:], place.bound(sort))
        except (InvalidTag, ValueError) as error:  # the latter: too short to be anything
            raise Unsealed("a record of the guard's is not what was kept there") from error

    def share(self, place: Place, sealed: bytes) -> int:
        """A row's share in the sum over all rows; see `added`."""
        said = b"%b%c%b%b%b" % (
            place.key,
            place.rank,
            place.due.to_bytes(8, "big", signed=True),
            sealed[:_RANDOM],
            sealed[-_TAG:],
        )
        return int.from_bytes(_mac(self._summing, said), "big")


def added(total: int, new: int, old: int = 0) -> int:
    """The sum after a row came, went or was replaced. Shares are secret: nobody can put together another set of it."""
    return (total + new - old) % _MODULUS


def _mac(keyed: hmac.HMAC, said: bytes) -> bytes:
    copied = keyed.copy()  # keyed once: a fraction of the time
    copied.update(said)
    return copied.digest()
