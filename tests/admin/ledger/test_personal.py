"""Persons' keys: bound to what they seal, erasable, and useless without the wrapping key."""

from pathlib import Path

import msgspec
import pytest

from admin.ledger import personal
from admin.ledger.personal import PersonalBroken, Safe
from engine.config import BadConfig

WRAPPING = bytes(range(32))


def test_sealed_fields_open_again() -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    sealed = safe.seal(key, "consent:1", 1, b"meter points")
    assert b"meter points" not in sealed
    assert Safe(WRAPPING).unseal(key, "consent:1", 1, sealed) == b"meter points"


def test_same_fields_never_look_the_same() -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    assert safe.seal(key, "consent:1", 1, b"x") != safe.seal(key, "consent:1", 1, b"x")


@pytest.mark.parametrize(("subject", "version"), [("consent:2", 1), ("consent:1", 2)])
def test_fields_cannot_be_moved_to_another_event(subject: str, version: int) -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    with pytest.raises(PersonalBroken):
        safe.unseal(key, subject, version, safe.seal(key, "consent:1", 1, b"x"))


def test_key_cannot_be_given_to_another_person() -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    sealed = safe.seal(key, "consent:1", 1, b"x")
    with pytest.raises(PersonalBroken):
        safe.unseal(msgspec.structs.replace(key, person_id="p-2"), "consent:1", 1, sealed)


@pytest.mark.parametrize("at", [8, 20, -1])
def test_changed_ciphertext_is_refused(at: int) -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    sealed = bytearray(safe.seal(key, "consent:1", 1, b"x"))
    sealed[at] ^= 1
    with pytest.raises(PersonalBroken):
        safe.unseal(key, "consent:1", 1, bytes(sealed))


@pytest.mark.parametrize("length", [8, 12, 20, 30])
def test_cut_ciphertext_is_refused(length: int) -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    with pytest.raises(PersonalBroken):
        safe.unseal(key, "consent:1", 1, safe.seal(key, "consent:1", 1, b"x")[:length])


def test_erased_key_opens_nothing() -> None:
    safe = Safe(WRAPPING)
    sealed = safe.seal(safe.new_key("p-1"), "consent:1", 1, b"x")
    assert safe.unseal(None, "consent:1", 1, sealed) is None
    assert safe.unseal(safe.new_key("p-1"), "consent:1", 1, sealed) is None


def test_other_wrapping_key_opens_nothing() -> None:
    safe = Safe(WRAPPING)
    key = safe.new_key("p-1")
    sealed = safe.seal(key, "consent:1", 1, b"x")
    with pytest.raises(PersonalBroken):
        Safe(bytes(32)).unseal(key, "consent:1", 1, sealed)


def test_remembered_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "_REMEMBERED", 3)
    safe = Safe(WRAPPING)
    keys = [safe.new_key(f"p-{number}") for number in range(10)]
    sealed = [safe.seal(key, "consent:1", 1, b"x") for key in keys]
    assert len(safe._unwrapped) <= 3
    pairs = zip(keys, sealed, strict=True)
    assert all(safe.unseal(key, "consent:1", 1, one) == b"x" for key, one in pairs)


def test_wrapping_key_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "person.key"
    path.touch(mode=0o600)
    path.write_bytes(WRAPPING)
    key = Safe(WRAPPING).new_key("p-1")
    assert Safe.from_file(path).seal(key, "consent:1", 1, b"x")


@pytest.mark.parametrize("content", [None, b"", b"too short", bytes(33)])
def test_bad_wrapping_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "person.key"
    if content is not None:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"person\.key"):
        Safe.from_file(path)
