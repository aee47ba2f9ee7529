"""TLS 1.3 records made by hand (RFC 8446 sections 5.2, 7.1 and 7.2), for what Python's ssl cannot be asked to send.

The handshake is made by `ssl`, which leaves its secrets in a key log; from then on the client's side is sealed here,
while `ssl` goes on reading what the server sends.
"""

import struct
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23
_KEY_UPDATE: Final = b"\x18\x00\x00\x01"
_SUITES: Final[dict[str, tuple[hashes.HashAlgorithm, int]]] = {  # the hash, and a key's bytes
    "TLS_AES_128_GCM_SHA256": (hashes.SHA256(), 16),
    "TLS_AES_256_GCM_SHA384": (hashes.SHA384(), 32),
}


def client_secret(key_log: Path) -> bytes:
    """The last connection's client_application_traffic_secret_0."""
    lines = [line.split() for line in key_log.read_text().splitlines()]
    return bytes.fromhex([line[2] for line in lines if line[0] == "CLIENT_TRAFFIC_SECRET_0"][-1])


class Sealer:
    """Seals the client's records, from the first after its Finished. suite: as `SSLObject.cipher()[0]` names it."""

    def __init__(self, suite: str, secret: bytes) -> None:
        self._hash, self._key_size = _SUITES[suite]
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(self._expand(b"key", self._key_size))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")
        self._sequence = 0

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack("!HB", length, len(label)) + label + b"\0"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def record(self, kind: int, content: bytes) -> bytes:
        """One record."""
        header = struct.pack("!BHH", APPLICATION_DATA, 0x0303, len(content) + 17)
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return header + self._aead.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self, *, requested: bool = False) -> bytes:
        """New keys from the next record on. requested: the server shall change its own as well."""
        record = self.record(HANDSHAKE, _KEY_UPDATE + bytes([requested]))
        self._use(self._expand(b"traffic upd", self._hash.digest_size))
        return record
