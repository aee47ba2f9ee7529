"""Key files are read whole and checked before anything starts."""

from pathlib import Path

import pytest

from admin.pki.key_files import write_private
from engine.config import BadConfig
from engine.node.key_files import read_key, read_keys


def test_keys_are_read_in_order(tmp_path: Path) -> None:
    files = (tmp_path / "new.key", tmp_path / "old.key")
    for number, file in enumerate(files):
        write_private(file, bytes([number]) * 32)
    assert read_keys(files) == (b"\0" * 32, b"\1" * 32)


@pytest.mark.parametrize("content", [b"", b"\0" * 31, b"\0" * 32 + b"\n"])
def test_key_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    write_private(tmp_path / "a.key", content)
    with pytest.raises(BadConfig, match=r"a\.key: a key has 32 bytes"):
        read_key(tmp_path / "a.key")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "a.key", b"k" * 32)
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(BadConfig, match=r"others than its owner may read this key; run: chmod 600"):
        read_key(tmp_path / "a.key")


def test_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"a\.key: No such file"):
        read_key(tmp_path / "a.key")


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(BadConfig, match="at least one"):
        read_keys(())
