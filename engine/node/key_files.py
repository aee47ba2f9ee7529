"""Secrets from the files that the configuration names, checked for size and owner before anything starts."""

from pathlib import Path
from typing import Final

from engine.config import BadConfig, read_private

KEY_BYTES: Final = 32


def read_key(path: Path) -> bytes:
    """A symmetric key: exactly 32 raw bytes. Raises BadConfig."""
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise BadConfig(f"{path}: a key has {KEY_BYTES} bytes, this file {len(key)}")
    return key


def read_keys(paths: tuple[Path, ...]) -> tuple[bytes, ...]:
    """Several, newest first; at least one. Raises BadConfig."""
    if not paths:
        raise BadConfig("feed.mac-key-files: at least one key is needed")
    return tuple(read_key(path) for path in paths)
