"""A sealed file: chunks that can be read only in full, in order, with the right key. Streaming in both directions.

Layout: a magic line; the label (length in 4 bytes, MessagePack); then each chunk as length (4 bytes) and AES-256-GCM
ciphertext. The file's own key is derived (HKDF, RFC 5869) from the backup key, a random salt and the whole label, so a
label cannot be changed or moved to another file. A nonce is the chunk's number and whether it is the last one (STREAM,
Hoang and others 2015): chunks cannot be swapped, repeated, left out or cut off at the end. Chunks are compressed first.
"""

import hashlib
import hmac
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.config import BadConfig, read_private
from engine.errors import Fault, Kind

MAGIC: Final = b"ccs.ledger.backup.1\n"
KEY_BYTES: Final = 32
_SALT_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
_MAX_LABEL: Final = 4_096
_LAST: Final = (b"\x00", b"\x01")  # the nonce's last byte: more to come, the end
_FAST: Final = 1  # zlib's level: half of an event does not compress at all, so more effort gains little
_CHECKED: Final = b"ccs.backup_key.check.1"
_VOUCHING: Final = b"ccs.backup_key.record.1"

_encode = msgspec.msgpack.Encoder().encode


class BrokenBackup(Fault):
    """A file of a backup is damaged, cut short, missing, or not where it belongs."""

    kind = Kind.BROKEN


class WrongBackupKey(Fault):
    """The file was sealed with another key."""

    kind = Kind.INVALID


class Label(msgspec.Struct, frozen=True, array_like=True):
    """What stands in clear at the beginning of a file. key: tells keys apart, reveals none."""

    key: bytes
    salt: bytes
    series: str
    index: int


_labels: Final = msgspec.msgpack.Decoder(Label)


class BackupKey:
    """The key that seals backups; never inside one."""

    def __init__(self, raw: bytes) -> None:
        """raw: 32 bytes."""
        self._raw = raw
        self.check: Final = hmac.digest(raw, _CHECKED, hashlib.sha256)[:8]

    @classmethod
    def from_file(cls, path: Path) -> "BackupKey":
        """Read a file of exactly 32 raw bytes, for its owner alone. Raises BadConfig."""
        raw = read_private(path)
        if len(raw) != KEY_BYTES:
            raise BadConfig(f"{path}: a key of {KEY_BYTES} raw bytes is needed")
        return cls(raw)

    def mac(self, said: bytes) -> bytes:
        """Shows that somebody who has this key said it: HMAC-SHA-256 under a key of its own."""
        return hmac.digest(hmac.digest(self._raw, _VOUCHING, hashlib.sha256), said, hashlib.sha256)

    def cipher(self, label: Label) -> AESGCM:
        """The cipher of one file."""
        derived = HKDF(SHA256(), KEY_BYTES, label.salt, MAGIC + _encode(label)).derive(self._raw)
        return AESGCM(derived)


class SealedWriter:
    """Writes one file. Nothing of it can be read before `finish`."""

    def __init__(self, file: BinaryIO, key: BackupKey, series: str, index: int) -> None:
        label = Label(key.check, os.urandom(_SALT_BYTES), series, index)
        self._cipher = key.cipher(label)
        self._file = file
        self._number = 0
        self._held: bytes | None = None  # the newest chunk, until it is known whether it is the last
        said = _encode(label)
        file.write(MAGIC + len(said).to_bytes(_LENGTH_BYTES, "big") + said)

    def write(self, chunk: bytes) -> None:
        """Add a chunk: some megabytes at most, since one is held in memory."""
        self._flush(last=False)
        self._held = zlib.compress(chunk, _FAST)

    def finish(self) -> None:
        """Say that this was all."""
        self._held = self._held or zlib.compress(b"")
        self._flush(last=True)

    def _flush(self, *, last: bool) -> None:
        if self._held is None:
            return
        sealed = self._cipher.encrypt(_nonce(self._number, last=last), self._held, None)
        self._file.write(len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed)
        self._number += 1
        self._held = None


def chunks(path: Path, key: BackupKey, series: str, index: int) -> Iterator[bytes]:
    """The chunks of a file, one after another. Only after the last one is it known that the file is whole.

    Raises BrokenBackup, WrongBackupKey, OSError.
    """
    with path.open("rb") as file:
        yield from _read(file, path, _open(file, path, key, series, index))


def _open(file: BinaryIO, path: Path, key: BackupKey, series: str, index: int) -> AESGCM:
    if file.read(len(MAGIC)) != MAGIC:
        raise BrokenBackup(f"{path}: no backup of this kind")
    try:
        label = _labels.decode(file.read(min(_MAX_LABEL, int.from_bytes(file.read(_LENGTH_BYTES), "big"))))
    except (msgspec.MsgspecError, ValueError) as error:  # the latter: text that is no UTF-8
        raise BrokenBackup(f"{path}: its label cannot be read") from error
    if label.key != key.check:
        raise WrongBackupKey(f"{path}: sealed with another backup key than the one given")
    if (label.series, label.index) != (series, index):
        raise BrokenBackup(f"{path}: belongs at another place, as segment {label.index} of {label.series}")
    return key.cipher(label)


def _read(file: BinaryIO, path: Path, cipher: AESGCM) -> Iterator[bytes]:
    number, sealed = 0, _frame(file, path)
    while sealed is not None:
        following = _frame(file, path)
        try:
            packed = cipher.decrypt(_nonce(number, last=following is None), sealed, None)
        except InvalidTag as error:
            what = "or cut short" if following is None else "or changed"
            raise BrokenBackup(f"{path}: damaged {what}: chunk {number} fails its check") from error
        yield zlib.decompress(packed)
        number, sealed = number + 1, following
    if number == 0:
        raise BrokenBackup(f"{path}: cut short")


def _frame(file: BinaryIO, path: Path) -> bytes | None:
    length = file.read(_LENGTH_BYTES)
    if not length:
        return None
    size = int.from_bytes(length, "big")
    left = path.stat().st_size - file.tell()
    if len(length) < _LENGTH_BYTES or size > left:  # looked at before it is read: a wrong length costs no memory
        raise BrokenBackup(f"{path}: damaged or cut short")
    return file.read(size)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + _LAST[last]
