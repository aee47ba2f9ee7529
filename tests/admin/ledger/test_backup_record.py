"""The record of backups: it notices what was removed from their end, and cannot be made to say less without the key."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio

from admin.cli import run
from admin.config import Ledger
from admin.ledger.backup.place import Place
from admin.ledger.backup.pruning import survey
from admin.ledger.backup.record import BrokenRecord, Record, RehearsedNote, SegmentsMissing, read_unchecked
from admin.ledger.backup.rehearsal import Rehearsal
from admin.ledger.backup.restoring import choose
from admin.ledger.backup.retention import Rule
from admin.ledger.backup.sealed import BackupKey, BrokenBackup
from admin.ledger.backup.shipping import Follower, Shipped
from admin.ledger.store import LedgerReader, LedgerUnavailable
from admin.scraping import Observer
from engine.clock import Seconds
from engine.errors import Fault
from tests.admin.test_scraping import Tail, value
from tests.support.backups import KEY, LATER, NOW, elsewhere, flip, keys_of, place_in, publish, shipping
from tests.support.ledger import HandClock, change, ledger_config, settings_text

OTHER = BackupKey(bytes(reversed(range(32))))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_in(tmp_path)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    (tmp_path / "record").mkdir()
    return Record(tmp_path / "record", KEY)


def note_newest(record: Record, place: Place, series: str) -> None:
    record.note_shipped(place.newest(series))


def test_notes_are_read_back_by_who_has_the_key_and_by_metrics(record: Record, place: Place) -> None:
    assert (record.shipped(), record.rehearsed()) == (None, None)
    series = publish(place, 1, segments=3, seq=7)
    note_newest(record, place, series)
    record.note_rehearsed(RehearsedNote(5.0, 2.5, "backup", 9, {"events": 9}))
    shipped, rehearsed = record.shipped(), record.rehearsed()
    assert shipped is not None
    assert (shipped.series, shipped.segment, shipped.seq, shipped.as_of) == (series, 2, 9, NOW - 86_400 + 7_200)
    assert abs(shipped.full_at - (NOW - 86_400)) < 1
    assert rehearsed == RehearsedNote(5.0, 2.5, "backup", 9, {"events": 9})
    assert read_unchecked(record.directory) == (shipped, rehearsed)
    assert Record(record.directory, KEY).shipped() == shipped
    assert sorted(path.name for path in record.directory.iterdir()) == ["rehearsed.json", "shipped.json"]


def test_a_note_made_to_say_less_is_refused(record: Record, place: Place) -> None:
    note_newest(record, place, publish(place, 1))
    path = record.directory / "shipped.json"
    said = json.loads(path.read_bytes())
    said["said"]["segment"] = 0
    path.write_text(json.dumps(said, separators=(",", ":")))
    with pytest.raises(BrokenRecord, match="was changed"):
        record.shipped()
    record.note_rehearsed(RehearsedNote(1.0, 1.0))
    (record.directory / "rehearsed.json").rename(path)  # a good note of the other kind is none of this one
    with pytest.raises(BrokenRecord):
        record.shipped()
    path.write_bytes(b"{")
    with pytest.raises(BrokenRecord, match="cannot be read"):
        record.shipped()


def test_a_note_under_another_key_is_refused(record: Record, place: Place) -> None:
    note_newest(record, place, publish(place, 1))
    with pytest.raises(BrokenRecord, match="another backup key"):
        Record(record.directory, OTHER).shipped()


def test_a_directory_that_is_away_is_not_an_empty_record(record: Record, place: Place) -> None:
    record.directory.rmdir()
    with pytest.raises(LedgerUnavailable):
        record.shipped()
    with pytest.raises(LedgerUnavailable):
        note_newest(record, place, publish(place, 1))


def remove_last(place: Place, series: str) -> None:
    place.segments(series)[-1].unlink()


def remove_all(place: Place, series: str) -> None:
    shutil.rmtree(place.root / series)


@pytest.mark.parametrize("remove", [remove_last, remove_all])
def test_newest_segments_that_were_removed_are_noticed(
    record: Record, place: Place, remove: Callable[[Place, str], None]
) -> None:
    older, newest = publish(place, 2), publish(place, 1, segments=3)
    note_newest(record, place, newest)
    shipped = record.shipped()
    assert shipped is not None
    assert choose(place, record=record).series == newest
    remove(place, newest)
    assert choose(place).series in {older, newest}  # the place alone shows nothing
    with pytest.raises(SegmentsMissing, match="segment 2"):
        choose(place, record=record)
    with pytest.raises(SegmentsMissing):
        survey(place, Rule(), NOW, record)
    named = choose(place, older, record=record)  # who names a series has decided
    assert named.reported == shipped.seq  # and still goes on above what was shipped


def test_what_goes_beyond_the_note_is_not_missed(record: Record, place: Place) -> None:
    """The note was lost after the last segments, or the noted series was pruned in favour of newer ones."""
    older = publish(place, 40)
    note_newest(record, place, older)
    newest = publish(place, 1, segments=3)
    shutil.rmtree(place.root / older)
    assert choose(place, record=record).series == newest


def test_backups_of_another_ledger_are_not_taken_for_the_noted_ones(record: Record, place: Place) -> None:
    mine = publish(place, 2)
    note_newest(record, place, mine)
    shutil.rmtree(place.root / mine)
    publish(place, 1, ledger="another")
    with pytest.raises(SegmentsMissing):
        choose(place, record=record)


@pytest.fixture
def config(tmp_path: Path) -> Ledger:
    return ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize("which", [0, -1])
async def test_following_takes_a_full_backup_where_segments_were_removed(
    config: Ledger, place: Place, which: int
) -> None:
    faults: list[Fault] = []
    told, heard = trio.open_memory_channel[Shipped](10)
    async with shipping(config, place) as (ledger, shipper), told, heard, trio.open_nursery() as nursery:
        follower = Follower(shipper, every=Seconds(0.02), told=told.send_nowait, waited=faults.append)
        nursery.start_soon(follower.run)
        with trio.fail_after(20):
            first = await heard.receive()
            await ledger.append([change(1)])
            await heard.receive()
            place.segments(first.series)[which].unlink()
            fresh = await heard.receive()
        nursery.cancel_scope.cancel()
    assert (fresh.index, fresh.taken.head.until.seq) == (0, 2)
    assert fresh.series != first.series
    assert "were removed" in faults[0].text


async def back_up(config: Ledger, place: Place, record: Record) -> Shipped:
    async with shipping(config, place) as (ledger, shipper):
        await ledger.append([change(1, person="p-1")])
        shipped = await shipper.full()
        record.note_shipped(shipped.newest)
        return shipped


def rehearsal(config: Ledger, place: Place, record: Record) -> Rehearsal:
    target = elsewhere(config, "sqlite:////nowhere/at/all.db")  # the settings' database is not touched
    seconds = iter((10.0, 12.5))
    return Rehearsal(place, keys_of(target), record, lambda: HandClock().time + LATER, lambda: next(seconds))


async def test_a_rehearsal_restores_notes_and_leaves_nothing(
    config: Ledger, place: Place, record: Record, tmp_path: Path
) -> None:
    await back_up(config, place, record)
    (tmp_path / "scratch").mkdir()
    made, note = await trio.to_thread.run_sync(
        rehearsal(config, place, record).run, tmp_path / "scratch", lambda *_: None
    )
    assert (made.verdict.fault, made.event.restored_seq) == (None, 2)
    assert (note.seq, note.seconds, note.rows["events"], note.fault) == (2, 2.5, 2, "")
    assert record.rehearsed() == note
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_rehearsal_that_fails_is_noted_with_its_reason(
    config: Ledger, place: Place, record: Record, tmp_path: Path
) -> None:
    shipped = await back_up(config, place, record)
    (tmp_path / "scratch").mkdir()
    (path,) = place.segments(shipped.series)
    flip(path, path.stat().st_size - 1)
    with pytest.raises(BrokenBackup):
        await trio.to_thread.run_sync(rehearsal(config, place, record).run, tmp_path / "scratch", lambda *_: None)
    note = record.rehearsed()
    assert note is not None
    assert "damaged" in note.fault
    assert list((tmp_path / "scratch").iterdir()) == []
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(Fault):
        await trio.to_thread.run_sync(rehearsal(config, place, record).run, tmp_path / "nowhere", lambda *_: None)
    note = record.rehearsed()
    assert note is not None
    assert "holds no backup" in note.fault


async def test_the_service_shows_how_far_backups_reach(record: Record, place: Place, tmp_path: Path) -> None:
    observer = Observer(cast("LedgerReader", Tail()), None, {}, backups=record.directory)
    await observer.observe()
    assert [value(f"ccs_backup_{name}") for name in ("record_up", "newest_timestamp_seconds", "position")] == [1, 0, 0]
    note_newest(record, place, publish(place, 1, seq=5))
    record.note_rehearsed(RehearsedNote(1_234.0, 61.0, "backup", 9))
    await observer.observe()
    assert value("ccs_backup_newest_timestamp_seconds") == NOW - 86_400 + 3_600
    assert value("ccs_backup_position") == 6
    assert abs(value("ccs_backup_full_timestamp_seconds") - NOW + 86_400) < 1
    assert value("ccs_backup_rehearsal_timestamp_seconds") == 1_234
    assert (value("ccs_backup_rehearsal_right"), value("ccs_backup_rehearsal_seconds")) == (1, 61)
    record.note_rehearsed(RehearsedNote(1_235.0, 2.0, fault="damaged"))
    await observer.observe()
    assert value("ccs_backup_rehearsal_right") == 0
    (record.directory / "shipped.json").write_bytes(b"nonsense")
    await observer.observe()
    assert value("ccs_backup_record_up") == 0
    record.directory.rename(tmp_path / "away")
    await observer.observe()
    assert value("ccs_backup_record_up") == 0
    await Observer(cast("LedgerReader", Tail()), None, {}).observe()
    assert value("ccs_backup_record_up") == 0


async def test_commands_note_what_they_ship_and_say_what_is_missing(
    config: Ledger, place: Place, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, key = tmp_path / "admin.toml", tmp_path / "backup.key"
    text = settings_text(tmp_path, config.url)
    settings.write_text(text.replace("[ledger]", f'[ledger]\nbackup-record = "{record.directory}"', 1))
    key.touch(mode=0o600)
    key.write_bytes(bytes(range(32)))
    await back_up(config, place, record)
    series = place.series()[0]

    def ccs(*words: str) -> tuple[int, str, str]:
        code = run(["ledger", *words, "--config", str(settings), "--key", str(key)])
        return code, *capsys.readouterr()

    def everything() -> None:
        code, said, complaint = ccs("backup", str(place.root), "--json")
        shipped = msgspec.json.decode(said)
        noted = record.shipped()
        assert noted is not None
        assert (code, complaint, noted.series) == (0, "", shipped["series"])
        shutil.rmtree(place.root / shipped["series"])
        code, _, complaint = ccs("restore", str(place.root))
        assert (code, "is not there" in complaint) == (7, True)
        code, _, complaint = ccs("backup", str(place.root))
        assert (code, complaint.startswith("ccs: backup: segment 0 of"), len(place.series())) == (0, True, 2)
        for word in ("prune-backups", "restore", "rehearse"):
            inside = ("--record", str(place.root / series))
            code, _, complaint = ccs(word, str(place.root), *inside)
            assert (code, "among the backups" in complaint) == (2, True)

    await trio.to_thread.run_sync(everything)  # the commands run a loop of their own
