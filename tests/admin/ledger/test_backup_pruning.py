"""Pruning on real files: whole series go, the newest is read before, and what is doubtful stays."""

import os
from pathlib import Path

import msgspec
import pytest

from admin.cli import run
from admin.ledger.backup.contents import End, Head, encode
from admin.ledger.backup.place import NoBackup, Place
from admin.ledger.backup.pruning import BackupsStopped, check, prune, survey
from admin.ledger.backup.retention import DAY, Rule, Why
from admin.ledger.backup.sealed import BackupKey, BrokenBackup, SealedWriter
from admin.ledger.backup.shipping import PlaceOfAnother
from engine.clock import UnixTime
from tests.support.backups import KEY, NOW, cut, flip, marks, place_in, publish

OTHER = BackupKey(bytes(reversed(range(32))))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_in(tmp_path)


def test_whole_series_go_and_the_others_are_not_touched(place: Place) -> None:
    names = {days: publish(place, days) for days in (800, 801, 60, 59.9, 1)}
    before = {path: path.read_bytes() for path in place.root.rglob("*.segment")}
    found = survey(place, Rule(months=0), NOW)
    assert [(one.judged.name, one.segments) for one in found.going] == [(names[d], 2) for d in (801, 800, 60, 59.9)]
    assert found.newest.series == names[1]
    assert {path: path.read_bytes() for path in place.root.rglob("*.segment")} == before  # a survey changes nothing
    check(place, found.newest)
    prune(place, found)
    assert place.series() == [names[1]]
    assert list(place.root.iterdir()) == [place.root / names[1]]
    assert len(place.segments(names[1])) == 2


def test_a_held_series_and_one_of_another_key_stay(place: Place) -> None:
    held, other = publish(place, 700), publish(Place(place.root, OTHER), 600)
    newest = publish(place, 0.5)
    (place.root / held / "hold").touch()
    found = survey(place, Rule(), NOW)
    assert [one.judged.why for one in found.listed] == [Why.HELD, Why.UNREADABLE, Why.NEWEST]
    prune(place, found)
    assert place.series() == [held, other, newest]


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_nothing_goes_where_the_newest_is_damaged(place: Place, segment: int) -> None:
    publish(place, 400)
    newest = publish(place, 0.5, segments=3)
    flip(place.root / newest / f"{segment:08}.segment", -1 % (place.root / newest / "00000000.segment").stat().st_size)
    with pytest.raises(BrokenBackup):
        check(place, survey(place, Rule(months=0), NOW).newest)


def test_a_segment_that_does_not_follow_on_the_one_before_is_found(place: Place) -> None:
    newest = publish(place, 0.5, segments=1)

    def write(writer: SealedWriter) -> None:
        until = marks(2_000_000, NOW)
        writer.write(encode(Head("ledger", "sandbox", "0004", UnixTime(1), None, marks(5, 5.0), until, UnixTime(1))))
        writer.write(encode(End({})))

    place.publish(newest, 1, write)
    with pytest.raises(BrokenBackup, match="does not follow"):
        check(place, survey(place, Rule(), NOW).newest)


def test_a_younger_series_that_cannot_be_read_is_not_passed_over(place: Place) -> None:
    publish(place, 400)
    publish(place, 1)
    broken = publish(place, 0.5)
    cut(place.root / broken / "00000001.segment", 40)
    with pytest.raises(BrokenBackup):
        survey(place, Rule(), NOW)


def test_nothing_goes_where_backups_have_stopped(place: Place) -> None:
    publish(place, 400)
    publish(place, 3)
    with pytest.raises(BackupsStopped):
        survey(place, Rule(), NOW)


def test_of_two_ledgers_none_is_pruned(place: Place) -> None:
    publish(place, 400, ledger="another")
    publish(place, 0.5)
    with pytest.raises(PlaceOfAnother):
        survey(place, Rule(), NOW)


def test_an_empty_place_is_called_so(place: Place) -> None:
    with pytest.raises(NoBackup):
        survey(place, Rule(), NOW)


def test_a_removal_that_was_broken_off_is_finished_and_is_no_backup_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, newest = publish(place, 400), publish(place, 0.5)

    def fail(path: Path) -> None:
        (Path(path) / "00000000.segment").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", fail)
    with pytest.raises(KeyboardInterrupt):
        prune(place, survey(place, Rule(months=0), NOW))
    monkeypatch.undo()
    assert place.series() == [newest]
    found = survey(place, Rule(months=0), NOW)
    assert found.left == [f"{old}.removed"]
    prune(place, found)
    assert [path.name for path in place.root.iterdir()] == [newest]


def test_what_a_broken_off_backup_left_goes_and_one_under_way_stays(place: Place) -> None:
    newest = publish(place, 0.5)
    left, under_way, foreign = place.new_series(NOW - 3 * DAY), place.new_series(NOW - 2.5 * DAY), "lost+found"
    for name in (left, under_way, foreign):
        (place.root / name).mkdir()
        (place.root / name / ".00000000.abcd.part").write_bytes(b"half")
    old = NOW - 2 * DAY
    for path in (place.root / left / ".00000000.abcd.part", place.root / left, place.root / under_way):
        os.utime(path, (old, old))
    prune(place, survey(place, Rule(), NOW))
    assert sorted(path.name for path in place.root.iterdir()) == sorted([newest, under_way, foreign])


def test_the_command_is_dry_until_told_and_ends_with_its_codes(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, newest = publish(place, 800), publish(place, 0.5)
    key = tmp_path / "backup.key"
    key.touch(mode=0o600)
    key.write_bytes(bytes(range(32)))
    words = ["ledger", "prune-backups", str(place.root), "--key", str(key)]

    assert run(words) == 0
    said = capsys.readouterr().out
    assert "goes" in said
    assert "to remove: 1 series" in said
    assert place.series() == [old, newest]

    path = place.root / newest / "00000001.segment"
    whole = path.read_bytes()
    flip(path, len(whole) - 1)
    assert (run([*words, "--apply"]), "damaged" in capsys.readouterr().err) == (7, True)
    assert place.series() == [old, newest]
    path.write_bytes(whole)

    assert run([*words, "--apply", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert (told["applied"], told["removed"], told["newest"]) == (True, [old], newest)
    assert [one["why"] for one in told["series"]] == ["over", "newest"]
    assert place.series() == [newest]
    assert run(["ledger", "prune-backups", str(tmp_path / "nowhere"), "--key", str(key)]) == 4
    assert Place(place.root, KEY).series() == [newest]
