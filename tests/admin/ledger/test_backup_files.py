"""Sealed files are read whole and unchanged, or not at all; the place gives a name only to what is whole."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.ledger.backup.contents import End, Rows, encode
from admin.ledger.backup.place import NoBackup, Place, SeriesTaken
from admin.ledger.backup.sealed import BackupKey, BrokenBackup, SealedWriter, WrongBackupKey, chunks
from admin.ledger.store import LedgerUnavailable
from engine.config import BadConfig
from tests.support.backups import KEY, cut, flip, place_in

SERIES = "20270115T080000Z-0123456789abcdef"
PARTS = [b"first " * 50, b"", b"third"]


def sealed(path: Path, parts: list[bytes], series: str = SERIES, index: int = 0) -> Path:
    with path.open("wb") as file:
        writer = SealedWriter(file, KEY, series, index)
        for part in parts:
            writer.write(part)
        writer.finish()
    return path


def read(path: Path, key: BackupKey = KEY, series: str = SERIES, index: int = 0) -> list[bytes]:
    return list(chunks(path, key, series, index))


@pytest.mark.parametrize("parts", [PARTS, [b"one"], [os.urandom(100_000)] * 3])
def test_what_was_sealed_is_read_back(tmp_path: Path, parts: list[bytes]) -> None:
    path = sealed(tmp_path / "f", parts)
    assert read(path) == parts
    assert not any(part in path.read_bytes() for part in parts if len(part) > 3)


def test_a_file_without_chunks_is_one_empty_chunk(tmp_path: Path) -> None:
    assert read(sealed(tmp_path / "f", [])) == [b""]


@settings(max_examples=300, deadline=None)
@given(bit=st.integers(min_value=0))
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    path = sealed(tmp_path_factory.mktemp("flip") / "f", PARTS)
    raw = bytearray(path.read_bytes())
    place = bit % (8 * len(raw))
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)
    with pytest.raises((BrokenBackup, WrongBackupKey)):
        read(path)


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = sealed(tmp_path / "f", PARTS)
    for size in reversed(range(path.stat().st_size)):
        cut(path, size)
        with pytest.raises(BrokenBackup):
            read(path)


def frames(path: Path) -> tuple[bytes, list[bytes]]:
    """What stands before the chunks, and each chunk with its length."""
    raw = path.read_bytes()
    at = raw.index(b"\n") + 1
    at += 4 + int.from_bytes(raw[at : at + 4], "big")
    before, found = raw[:at], []
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        found.append(raw[at:end])
        at = end
    return before, found


@pytest.mark.parametrize(
    "change",
    [
        lambda all_: [all_[1], all_[0], all_[2]],
        lambda all_: all_[:2],
        lambda all_: all_[1:],
        lambda all_: [*all_, all_[-1]],
        lambda all_: [all_[0], all_[0], *all_[1:]],
        lambda _all: [],
    ],
    ids=["swapped", "cut at the end", "cut at the beginning", "longer", "repeated", "empty"],
)
def test_chunks_are_bound_to_their_places(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = sealed(tmp_path / "f", PARTS)
    before, found = frames(path)
    path.write_bytes(before + b"".join(change(found)))
    with pytest.raises(BrokenBackup):
        read(path)


def test_chunks_of_another_file_under_the_same_key_do_not_fit(tmp_path: Path) -> None:
    one, other = sealed(tmp_path / "f", PARTS), sealed(tmp_path / "g", PARTS)
    (before, _), (_, found) = frames(one), frames(other)
    one.write_bytes(before + b"".join(found))
    with pytest.raises(BrokenBackup):
        read(one)


def test_another_key_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(WrongBackupKey, match="another backup key"):
        read(sealed(tmp_path / "f", PARTS), BackupKey(bytes(32)))


@pytest.mark.parametrize(("series", "index"), [(SERIES, 1), (SERIES[:-1] + "0", 0)])
def test_a_file_that_was_moved_is_refused(tmp_path: Path, series: str, index: int) -> None:
    with pytest.raises(BrokenBackup, match="belongs at another place"):
        read(sealed(tmp_path / "f", PARTS), KEY, series, index)


def test_what_is_no_backup_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"SQLite format 3\x00" + bytes(100))
    with pytest.raises(BrokenBackup, match="no backup of this kind"):
        read(tmp_path / "f")


def test_a_wrong_length_costs_no_memory(tmp_path: Path) -> None:
    path = sealed(tmp_path / "f", PARTS)
    before, found = frames(path)
    path.write_bytes(before + b"\xff\xff\xff\xff" + found[0][4:])
    with pytest.raises(BrokenBackup, match="damaged or cut short"):
        read(path)


@pytest.mark.parametrize(("size", "mode", "what"), [(31, 0o600, "32 raw bytes"), (32, 0o640, "chmod 600")])
def test_a_key_file_of_another_size_or_open_to_others_is_refused(
    tmp_path: Path, size: int, mode: int, what: str
) -> None:
    (tmp_path / "key").write_bytes(bytes(size))
    (tmp_path / "key").chmod(mode)
    with pytest.raises(BadConfig, match=what):
        BackupKey.from_file(tmp_path / "key")


def rows(writer: SealedWriter) -> None:
    writer.write(encode(Rows("claims", [["c", "edp-1", "s", 1.0]])))
    writer.write(encode(End({"claims": 1})))


def names(place: Place) -> list[str]:
    return sorted(str(path.relative_to(place.root)) for path in place.root.rglob("*") if path.is_file())


def test_a_segment_is_named_when_it_is_whole(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    seen: list[list[str]] = []

    def write(writer: SealedWriter) -> None:
        rows(writer)
        seen.append(names(place))

    size = place.publish(SERIES, 0, write)
    assert [name.endswith(".part") for name in seen[0]] == [True]
    assert names(place) == [f"{SERIES}/00000000.segment"]
    assert size == (place.root / SERIES / "00000000.segment").stat().st_size
    assert (place.root / SERIES / "00000000.segment").stat().st_mode & 0o077 == 0


def test_a_backup_that_is_broken_off_leaves_no_name(tmp_path: Path) -> None:
    place = place_in(tmp_path)

    def write(writer: SealedWriter) -> None:
        rows(writer)
        raise LedgerUnavailable("the database went away")

    with pytest.raises(LedgerUnavailable):
        place.publish(SERIES, 0, write)
    assert names(place) == []
    assert place.series() == []


def test_a_draft_left_by_a_killed_process_is_no_backup(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    (place.root / SERIES).mkdir()
    (place.root / SERIES / ".00000000.abcd.part").write_bytes(b"half")
    assert place.series() == []
    with pytest.raises(NoBackup):
        place.segments(SERIES)


def test_what_the_disk_did_not_keep_is_found_before_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(tmp_path)

    def rot(descriptor: int, _offset: int, _length: int, _advice: int) -> None:
        os.pwrite(descriptor, b"\x00\x00", os.fstat(descriptor).st_size - 5)

    monkeypatch.setattr(os, "posix_fadvise", rot)
    with pytest.raises(BrokenBackup):
        place.publish(SERIES, 0, rows)
    assert names(place) == []


def test_two_that_write_the_same_segment_are_told(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.publish(SERIES, 0, rows)
    before = (place.root / SERIES / "00000000.segment").read_bytes()
    with pytest.raises(SeriesTaken):
        place.publish(SERIES, 0, rows)
    assert (place.root / SERIES / "00000000.segment").read_bytes() == before


def test_a_place_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    place = Place(tmp_path / "unmounted", KEY)
    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        place.publish(SERIES, 0, rows)
    with pytest.raises(NoBackup):
        place.series()
    assert not place.root.exists()


def test_a_segment_missing_between_others_is_named(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    for index in range(3):
        place.publish(SERIES, index, rows)
    (place.root / SERIES / "00000001.segment").unlink()
    with pytest.raises(BrokenBackup, match="segment 1 is missing"):
        place.segments(SERIES)


def test_a_segment_without_its_head_or_with_other_counts_is_refused(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.publish(SERIES, 0, rows)
    with pytest.raises(BrokenBackup, match="does not begin with its head"):
        list(place.parts(SERIES, 0))


def test_flipped_bit_names_the_file(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.publish(SERIES, 0, rows)
    path = place.root / SERIES / "00000000.segment"
    flip(path, path.stat().st_size - 20)
    with pytest.raises(BrokenBackup, match=r"00000000\.segment"):
        list(place.parts(SERIES, 0))
