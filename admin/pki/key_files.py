"""Keys on disk: made once, readable by their owner alone, and never half written.

A key file that group or others may read is refused at start, in one sentence that says what to do.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from engine import config
from engine.errors import Fault, Kind

SECRET_BYTES: Final = 32  # of MAC, meter and wrapping keys; as long as the hash, RFC 2104 section 3


class BadKeyFile(Fault):
    """A key file that is missing, readable by others, or holds something else; the text names it."""

    kind = Kind.INVALID


def read_private(path: Path) -> bytes:
    """The bytes of a key file. Raises BadKeyFile, also when anybody but its owner may read or write it."""
    try:
        return config.read_private(path)
    except config.BadConfig as fault:
        raise BadKeyFile(fault.text) from fault


def write_private(path: Path, content: bytes) -> None:
    """Make a key file, mode 0600, whole and on disk, or not at all. Raises BadKeyFile when it exists already."""
    draft = _draft_beside(path)
    try:
        _write_durably(draft, content, 0o600)
        try:
            os.link(draft, path)  # unlike a rename, a link never replaces a key that is there
        finally:
            draft.unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise BadKeyFile(f"{path}: {error.strerror}") from error


def write_public(path: Path, content: bytes) -> None:
    """Write a certificate or public key, mode 0644, whole and on disk, over what was there. Raises BadKeyFile."""
    draft = _draft_beside(path)
    try:
        _write_durably(draft, content, 0o644)
        draft.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise BadKeyFile(f"{path}: {error.strerror}") from error


def generate_secret(path: Path) -> bytes:
    """Draw 32 random bytes and keep them in a new file. Raises BadKeyFile."""
    secret = secrets.token_bytes(SECRET_BYTES)
    write_private(path, secret)
    return secret


def load_secret(path: Path) -> bytes:
    """Read a secret of exactly 32 raw bytes. Raises BadKeyFile."""
    secret = read_private(path)
    if len(secret) != SECRET_BYTES:
        raise BadKeyFile(f"{path}: holds {len(secret)} bytes where a secret has {SECRET_BYTES}")
    return secret


def _draft_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
