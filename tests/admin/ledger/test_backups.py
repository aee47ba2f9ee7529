"""Backup and restore on real databases: nothing is lost, nothing is doubled, and whatever is wrong is refused."""

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import trio

from admin.config import Ledger
from admin.ledger.backup.contents import BY_NAME, KEPT, LEFT_OUT, Part, Rows, encode
from admin.ledger.backup.filling import RestoredBroken, TargetNotEmpty
from admin.ledger.backup.place import NoBackup, Place
from admin.ledger.backup.positions import MARGIN, RATE, ClockBehind
from admin.ledger.backup.restoring import choose
from admin.ledger.backup.sealed import BackupKey, BrokenBackup, WrongBackupKey
from admin.ledger.backup.shipping import Follower, PlaceOfAnother, Shipped, Shipper
from admin.ledger.backup.taking import OtherSchema
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.database import Database
from admin.ledger.erasures import BrokenJournal, Erasure, ErasureJournal
from admin.ledger.events import LedgerRestored, event_of
from admin.ledger.genesis import WrongLedger, WrongPersonKey
from admin.ledger.personal import Safe
from admin.ledger.reports import Reports
from admin.ledger.schema import answer_keys, claims, events, metadata, reports
from admin.ledger.sql import SqlLedger, open_ledger, open_reader
from admin.ledger.store import LedgerUnavailable
from admin.ledger.verify import verify
from engine.clock import Seconds, UnixTime
from engine.config import BadConfig
from engine.consent.records import ClientId
from engine.feed.entries import EntryKind
from tests.support.backups import KEY, LATER, cut, elsewhere, flip, keys_of, place_in, restored, shipping
from tests.support.ledger import HandClock, change, ledger_config, tamper, used
from tests.support.postgres import PostgresServer

ON_POSTGRES = pytest.mark.postgres
NOW = HandClock().time


@pytest.fixture
def config(tmp_path: Path) -> Ledger:
    return ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def target(config: Ledger, tmp_path: Path) -> Ledger:
    return elsewhere(config, f"sqlite:///{tmp_path}/restored.db")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_in(tmp_path)


async def rows_of(config: Ledger, *, without: frozenset[str] = frozenset()) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables but some, sorted."""
    database = Database.of(config)
    try:
        return {
            table.name: sorted(map(tuple, database.inspect(lambda c, t=table: c.execute(sa.select(t)).all())), key=repr)
            for table in metadata.sorted_tables
            if table.name not in without
        }
    finally:
        database.dispose()


def add_what_is_no_event(config: Ledger, number: int, at: float) -> None:
    """A claim, a report and a key, as the service would write them."""
    tamper(
        config.url,
        sa.insert(claims).values(consent_id=f"c-{number}", edp="edp-1", share_id="s", claimed_at=at),
        sa.insert(reports).values(client_id="node-1", idempotency_key=f"key-{number}", body=b"[1]", received_at=at),
        sa.insert(answer_keys).values(
            kid=f"kid-{number}", node_id="node-1", jwk=b"{}", registered_at=at, published_until=at + 10
        ),
    )


async def fill(ledger: SqlLedger, first: int, count: int) -> None:
    for number in range(first, first + count):
        await ledger.append([change(number, person=f"p-{number % 4}")], used(f"k-{number}"))


@pytest.fixture(params=["sqlite to sqlite", *(pytest.param(f"{one} to {other}", marks=ON_POSTGRES) for one, other in
                        (("postgres", "postgres"), ("sqlite", "postgres"), ("postgres", "sqlite")))])  # fmt: skip
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Ledger, Ledger]:
    """A ledger's settings, and those of an empty database to restore into."""
    source, _, target = request.param.partition(" to ")
    urls = {name: f"sqlite:///{tmp_path}/{name}.db" for name in ("source", "target")}
    if source == "postgres":
        urls["source"] = request.getfixturevalue("postgres_url")
    if target == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        urls["target"] = server.new_database() if source == "postgres" else request.getfixturevalue("postgres_url")
    config = ledger_config(tmp_path, urls["source"])
    return config, elsewhere(config, urls["target"])


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two rows a page, so that small tables have many; returns how many rows each sealed page had."""
    sizes: list[int] = []

    def sealed(part: Part) -> bytes:
        sizes.append(len(part.rows) if isinstance(part, Rows) else 0)
        return encode(part)

    small = tuple(msgspec.structs.replace(kept, page=2) for kept in KEPT)
    monkeypatch.setattr("admin.ledger.backup.taking.KEPT", small)
    monkeypatch.setattr("admin.ledger.backup.taking.encode", sealed)
    return sizes


async def test_restored_ledger_holds_everything_and_goes_on(
    pair: tuple[Ledger, Ledger], place: Place, small_pages: list[int]
) -> None:
    config, target = pair
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 7)
        await ledger.checkpoint()
        for number in (1, 3, 4, 5, 6):
            add_what_is_no_event(config, number, time())
        shipped = await shipper.full()
        await ledger.append([change(0, 1, person="p-0"), change(50, person="p-50")], used("k-50"))
        await ledger.checkpoint()
        add_what_is_no_event(config, 2, time())
        tail = await shipper.tail(shipped.newest)
        assert tail is not None
        assert tail.taken.counts["events"] == 2
        before = await ledger.head()
    assert max(small_pages) == 2  # whatever the ledger's size, memory holds one page
    made = await restored(target, place)

    first = made.position.seq
    assert (made.event.previous_incarnation, made.event.restored_seq) == (before.position.incarnation, 10)
    assert made.position.incarnation != before.position.incarnation
    assert first > RATE * (LATER + MARGIN)
    assert (made.event.gap_from, made.event.gap_to) == (NOW, NOW + LATER + 1)
    assert made.event.backup == f"{shipped.series}/1"
    differ = frozenset({"instances", "ledger_meta", "events", "checkpoints", "subjects", "feed_records"})
    assert await rows_of(target, without=differ) == await rows_of(config, without=differ)
    told = set((await rows_of(target))["feed_records"]) - set((await rows_of(config))["feed_records"])
    assert [row[0] for row in told] == [EntryKind.RECOVERY]  # what tells nodes that the ledger recovers
    for name in ("events", "checkpoints", "subjects"):
        old, new = (await rows_of(config))[name], (await rows_of(target))[name]
        changed = {row for row in old if row not in new}
        assert all(row[0] == "ledger" for row in changed)  # its subject is of version 2 now
        assert len(new) == len(old) + (name != "subjects")

    async with open_ledger(target, HandClock(NOW + 100)) as ledger:
        assert (await ledger.head()).position == made.position
        assert event_of((await ledger.events(first - 1, 1))[0]) == made.event
        assert (await ledger.append([change(0, 1, person="p-0"), change(50)], used("k-50"))).replayed
        state = await ledger.subject(change(3).subject)
        assert state is not None
        assert state.personal == b"meter points of p-3"
        receipt = await ledger.append([change(3, 1, person="p-3")])
        assert (receipt.position.incarnation, receipt.position.seq) == (made.position.incarnation, first + 1)
        found = await verify(ledger, CheckpointKey.from_file(target.checkpoint_key_file))
        assert (found.fault, found.events, found.erased) == (None, 12, 0)
    async with open_reader(target) as reader:
        assert await reader.before_newest(3) == 9  # behind number 9, over the numbers left out


async def test_what_is_left_out_and_why_is_said_for_every_table() -> None:
    assert {kept.table for kept in KEPT} | set(LEFT_OUT) == set(metadata.sorted_tables)
    assert {kept.table for kept in KEPT} & set(LEFT_OUT) == set()
    assert all(kept.why for kept in KEPT)
    assert len(BY_NAME) == len(KEPT)


async def test_a_second_restore_stands_above_the_first_and_a_backup_of_it_restores_too(
    config: Ledger, target: Ledger, place: Place, tmp_path: Path
) -> None:
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 3)
        await shipper.full()
    first = await restored(target, place)
    async with open_ledger(target, HandClock(NOW + 100)) as ledger:
        shipper = Shipper(ledger.database, place, time)
        assert await shipper.continuable() is None  # another incarnation: a series of its own
        await fill(ledger, 10, 3)
        await shipper.full()
    third = elsewhere(config, f"sqlite:///{tmp_path}/third.db")
    second = await restored(third, place, wall=NOW + 200.0)
    assert second.event.previous_incarnation == first.position.incarnation
    assert second.position.seq > first.position.seq + 3
    async with open_ledger(third, HandClock(NOW + 300)) as ledger:
        found = await verify(ledger, CheckpointKey.from_file(third.checkpoint_key_file))
        assert (found.fault, found.events) == (None, 1 + 3 + 1 + 3 + 1)
        restores = [event for event in await ledger.events(0, 100) if event.subject == "ledger"][1:]
        assert all(isinstance(event_of(event), LedgerRestored) for event in restores)
        assert [event.version for event in restores] == [2, 3]


async def test_an_older_backup_stands_above_what_the_younger_series_show(
    config: Ledger, target: Ledger, place: Place
) -> None:
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 3)
        older = await shipper.full()
        await fill(ledger, 3, 3)
        await shipper.full()
    made = await restored(target, place, series=older.series)
    assert (made.event.restored_seq, made.event.reported_seq) == (4, 7)


async def test_what_the_operator_knows_to_have_been_told_counts(config: Ledger, target: Ledger, place: Place) -> None:
    async with shipping(config, place) as (_, shipper):
        await shipper.full()
    made = await restored(target, place, reported=10**14)
    assert (made.event.reported_seq, made.position.seq) == (10**14, 10**14 + 1)


async def test_a_backup_of_a_ledger_that_is_written_to_is_of_one_moment(
    config: Ledger, target: Ledger, place: Place
) -> None:
    """Writers go on while rows are read: a receipt and its event, a key and its fields are both there or neither."""
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 50)
        done = trio.Event()

        async def write() -> None:
            number = 100
            while not done.is_set():
                await ledger.append([change(number, person=f"p-{number}")], used(f"k-{number}"))
                number += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            shipped = await shipper.full()
            counts = shipped.taken.counts
            tails = 0
            newest = shipped.newest
            while tails < 5:
                tail = await shipper.tail(newest)
                if tail is not None:
                    newest, tails = tail.newest, tails + 1
            done.set()
    assert counts["events"] == shipped.taken.head.until.seq
    made = await restored(target, place)
    assert made.counts["events"] == newest.head.until.seq
    assert made.counts["idempotency"] == made.counts["events"] - 1
    async with open_reader(target) as reader:
        found = await verify(reader, CheckpointKey.from_file(target.checkpoint_key_file))
    assert (found.fault, found.erased) == (None, 0)
    assert found.persons == 4 + newest.head.until.seq - 51


async def test_persons_erased_after_the_backup_do_not_come_back(
    config: Ledger, target: Ledger, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    journal = tmp_path / "other" / "erasures.jsonl"
    config, target = (msgspec.structs.replace(one, erasure_journal=journal) for one in (config, target))
    async with shipping(config, place) as (ledger, shipper):
        for number in range(5):
            await ledger.append([change(number, person=f"p-{number}")])
        await ledger.erase_person("p-0")
        newest = (await shipper.full()).newest
        await ledger.erase_person("p-1")
        await ledger.append([change(11, person="p-1")])  # who came back with a new key
        assert await shipper.tail(newest) is not None
        await ledger.erase_person("p-2")  # which only the journal knows
    made = await restored(target, place)
    assert made.event.erased_again == 1  # the other one's erasure is in the backup itself
    assert (made.verdict.fault, made.verdict.persons, made.verdict.erased) == (None, 5, 2)  # p-1 has a key again
    async with open_ledger(target, HandClock(NOW + 100)) as ledger:
        read = {n: (await ledger.subject(change(n).subject)) for n in (0, 1, 2, 3, 11)}
    assert {n: state.personal for n, state in read.items() if state} == {
        0: None, 1: None, 2: None, 3: b"meter points of p-3", 11: b"meter points of p-1",
    }  # fmt: skip
    assert len((await rows_of(target))["erasures"]) == 3  # so that a backup of the restored ledger tells of all


async def test_without_the_journal_only_what_backups_know_is_erased(
    config: Ledger, target: Ledger, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    journal = tmp_path / "other" / "erasures.jsonl"
    config = msgspec.structs.replace(config, erasure_journal=journal)
    async with shipping(config, place) as (ledger, shipper):
        await ledger.append([change(1, person="p-1")])
        await shipper.full()
        await ledger.erase_person("p-1")
    made = await restored(target, place)
    assert (made.event.erased_again, made.verdict.erased) == (0, 0)


async def test_a_claim_repeated_in_a_later_segment_is_taken_once(config: Ledger, target: Ledger, place: Place) -> None:
    async with shipping(config, place) as (ledger, shipper):
        add_what_is_no_event(config, 1, time())
        newest = (await shipper.full()).newest
        await fill(ledger, 0, 1)
        tail = await shipper.tail(newest)
        assert tail is not None
        assert tail.taken.counts["claims"] == 1  # again: claims have no number, so they are looked for a while back
    await restored(target, place)
    assert len((await rows_of(target))["claims"]) == 1


async def test_a_claim_that_committed_late_is_shipped(config: Ledger, target: Ledger, place: Place) -> None:
    """Its time is earlier than the segment before it."""
    async with shipping(config, place) as (ledger, shipper):
        newest = (await shipper.full()).newest
        add_what_is_no_event(config, 1, time() - 30)
        await fill(ledger, 0, 1)
        assert await shipper.tail(newest) is not None
    await restored(target, place)
    assert len((await rows_of(target))["claims"]) == 1


async def test_nothing_new_is_no_segment_until_it_is_time_to_show_that_somebody_ships(
    config: Ledger, place: Place
) -> None:
    now = [time()]
    async with open_ledger(config, HandClock()) as ledger:
        shipper = Shipper(ledger.database, place, lambda: now[0])
        newest = (await shipper.full()).newest
        now[0] += 30
        assert await shipper.tail(newest) is None
        now[0] += 31
        tail = await shipper.tail(newest)
        assert tail is not None
        now[0] -= 3600  # the clock was set back: what it means for times is not known, so there is news
        assert await shipper.tail(tail.newest) is not None


@pytest.fixture
async def backed_up(config: Ledger, place: Place) -> list[Path]:
    """The files of a series of three segments."""
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 3)
        await ledger.checkpoint()
        newest = (await shipper.full()).newest
        for number in (10, 11):
            await fill(ledger, number, 1)
            tail = await shipper.tail(newest)
            assert tail is not None
            newest = tail.newest
    return place.segments(newest.series)


@pytest.fixture
async def filled(backed_up: list[Path]) -> Place:
    """The place of that series."""
    return Place(backed_up[0].parent.parent, KEY)


def left_behind(target: Ledger) -> list[Path]:
    path = Path(target.url.removeprefix("sqlite:///"))
    return list(path.parent.glob(path.name + "*"))


@pytest.mark.parametrize("segment", [0, 1, 2])
async def test_a_flipped_bit_is_refused_and_nothing_is_left(
    backed_up: list[Path], target: Ledger, place: Place, segment: int
) -> None:
    flip(backed_up[segment], backed_up[segment].stat().st_size - 40)
    with pytest.raises(BrokenBackup, match=f"0000000{segment}"):
        await restored(target, place)
    assert left_behind(target) == []


@pytest.mark.parametrize("segment", [0, 1, 2])
async def test_a_file_cut_short_is_refused(backed_up: list[Path], target: Ledger, place: Place, segment: int) -> None:
    cut(backed_up[segment], backed_up[segment].stat().st_size - 1)
    with pytest.raises(BrokenBackup, match="cut short"):
        await restored(target, place)
    assert left_behind(target) == []


async def test_what_can_be_read_of_a_damaged_series_is_restored_when_asked_for(
    backed_up: list[Path], target: Ledger, place: Place
) -> None:
    cut(backed_up[2], 100)
    series = backed_up[0].parent.name
    made = await restored(target, place, series=series, segments=2)
    assert made.event.restored_seq == 5
    with pytest.raises(BrokenBackup, match="has 3 segments"):
        choose(place, series, 4)


async def test_a_missing_segment_is_refused(backed_up: list[Path], target: Ledger, place: Place) -> None:
    backed_up[1].unlink()
    with pytest.raises(BrokenBackup, match="segment 1 is missing"):
        await restored(target, place)


async def test_a_segment_of_another_series_is_refused(backed_up: list[Path], target: Ledger, place: Place) -> None:
    """Sealed with the same key for the same number, of the same ledger even."""
    series = backed_up[0].parent.name
    other = place.root / "20200101T000000Z-0123456789abcdef"
    other.mkdir()
    for path in backed_up:
        (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BrokenBackup, match="belongs at another place"):
        await restored(target, place, series=other.name)
    assert (await restored(target, place)).event.backup == f"{series}/2"  # the older stray is no obstacle


async def test_another_key_is_refused(target: Ledger, filled: Place) -> None:
    with pytest.raises(WrongBackupKey):
        await restored(target, Place(filled.root, BackupKey(bytes(32))))


async def test_a_younger_series_that_cannot_be_read_is_not_passed_over(
    backed_up: list[Path], config: Ledger, target: Ledger, place: Place
) -> None:
    later = place.root / "29990101T000000Z-0123456789abcdef"
    later.mkdir()
    (later / "00000000.segment").write_bytes(b"rotten")
    with pytest.raises(BrokenBackup, match="29990101"):
        await restored(target, place)
    assert (await restored(target, place, series=backed_up[0].parent.name)).event.restored_seq == 6
    async with shipping(config, place) as (_, shipper):
        await shipper.full()  # and it is no reason to make no backup


async def test_an_empty_place_is_called_so(target: Ledger, place: Place) -> None:
    with pytest.raises(NoBackup):
        await restored(target, place)


async def test_a_target_with_a_ledger_is_refused(config: Ledger, filled: Place) -> None:
    with pytest.raises(TargetNotEmpty, match=r"ledger\.db"):
        await restored(config, filled)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
async def test_a_file_in_the_target_s_place_is_refused(target: Ledger, filled: Place, end: str) -> None:
    """A log that was left there would be applied to the database that comes."""
    stray = Path(target.url.removeprefix("sqlite:///") + end)
    stray.touch()  # noqa: ASYNC240 - nothing else runs
    with pytest.raises(TargetNotEmpty, match="move it away"):
        await restored(target, filled)
    assert left_behind(target) == [stray]


async def test_what_a_killed_restore_left_is_no_obstacle(target: Ledger, filled: Place) -> None:
    for end in (".restoring", ".restoring-wal"):
        Path(target.url.removeprefix("sqlite:///") + end).write_bytes(b"half of it")  # noqa: ASYNC240 - nothing else runs
    await restored(target, filled)
    assert len(left_behind(target)) == 1


@pytest.mark.postgres
async def test_a_postgres_database_with_a_ledger_is_refused_and_stays(
    config: Ledger, filled: Place, postgres_url: str
) -> None:
    there = elsewhere(config, postgres_url)
    async with open_ledger(there, HandClock()):
        pass
    before = await rows_of(there)
    with pytest.raises(TargetNotEmpty, match="has rows"):
        await restored(there, filled)
    assert await rows_of(there) == before


@pytest.mark.postgres
async def test_a_postgres_database_stays_empty_where_a_restore_fails(
    backed_up: list[Path], config: Ledger, place: Place, postgres_url: str
) -> None:
    there = elsewhere(config, postgres_url)
    flip(backed_up[1], backed_up[1].stat().st_size - 40)
    with pytest.raises(BrokenBackup):
        await restored(there, place)
    engine = sa.create_engine(postgres_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


async def test_a_clock_that_stands_before_the_backup_is_refused(target: Ledger, filled: Place) -> None:
    with pytest.raises(ClockBehind):
        await restored(target, filled, wall=NOW - 1.0)


async def test_a_ledger_of_the_other_kind_is_refused(target: Ledger, filled: Place) -> None:
    with pytest.raises(WrongLedger, match="sandbox"):
        await restored(msgspec.structs.replace(target, kind="production"), filled)


async def test_another_person_key_is_refused(target: Ledger, filled: Place) -> None:
    with pytest.raises(WrongPersonKey):
        await restored(target, filled, keys=msgspec.structs.replace(keys_of(target), safe=Safe(bytes(32))))
    assert left_behind(target) == []


async def test_checkpoints_of_another_key_are_refused(target: Ledger, filled: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = CheckpointKey.from_file(ledger_config(tmp_path / "other", "sqlite://").checkpoint_key_file)
    with pytest.raises(RestoredBroken, match="signed by another key"):
        await restored(target, filled, keys=msgspec.structs.replace(keys_of(target), checkpoint=other))
    assert left_behind(target) == []


async def test_a_journal_that_is_missing_or_forged_is_refused(filled: Place, target: Ledger, tmp_path: Path) -> None:
    """Without it, somebody may come back; with a forged one, somebody else may go."""
    (tmp_path / "elsewhere").mkdir()
    journal = tmp_path / "elsewhere" / "erasures.jsonl"
    asked = msgspec.structs.replace(target, erasure_journal=journal)
    with pytest.raises(BadConfig, match=r"erasures\.jsonl"):
        await restored(asked, filled)
    forger = CheckpointKey.from_file(ledger_config(journal.parent, "sqlite://").checkpoint_key_file)
    ErasureJournal(journal, forger).add(Erasure("0" * 32, "p-1", b"key id", UnixTime(NOW)))
    with pytest.raises(BrokenJournal):
        await restored(asked, filled)
    assert left_behind(target) == []


async def test_a_ledger_that_was_broken_before_it_was_backed_up_is_refused(
    config: Ledger, target: Ledger, place: Place
) -> None:
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 3)
        tamper(config.url, sa.update(events).where(events.c.seq == 2).values(body=b"\x81"))
        await shipper.full()
    with pytest.raises(RestoredBroken, match="event 2: its contents do not match its hash"):
        await restored(target, place)
    assert left_behind(target) == []


@pytest.mark.parametrize("revision", ["0003", "9999"])
async def test_a_backup_of_another_schema_is_refused(
    config: Ledger, target: Ledger, place: Place, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    async with shipping(config, place) as (_, shipper):
        tamper(config.url, sa.text("UPDATE alembic_version SET version_num = :r").bindparams(r=revision))
        with pytest.raises(OtherSchema, match=revision):
            await shipper.full()
        with monkeypatch.context() as patch:
            patch.setattr("admin.ledger.migrations.newest", lambda: revision)
            await shipper.full()
    with pytest.raises(OtherSchema, match=f"schema {revision}"):
        await restored(target, place)
    assert left_behind(target) == []


async def test_a_place_of_another_ledger_is_refused(config: Ledger, place: Place, tmp_path: Path) -> None:
    async with shipping(config, place) as (_, shipper):
        await shipper.full()
    async with shipping(elsewhere(config, f"sqlite:///{tmp_path}/another.db"), place) as (_, shipper):
        for refused in (shipper.full, shipper.continuable):
            with pytest.raises(PlaceOfAnother):
                await refused()


async def eventually(holds: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - a follower tells by calls, and sleeps by itself
            await trio.sleep(0.01)


async def test_of_two_ledgers_in_one_place_none_is_taken_by_chance(
    config: Ledger, target: Ledger, tmp_path: Path, place: Place
) -> None:
    """Somebody copied another ledger's series there."""
    async with shipping(config, place) as (ledger, shipper):
        await fill(ledger, 0, 3)
        ours = await shipper.full()
    (tmp_path / "other").mkdir()
    async with shipping(elsewhere(config, f"sqlite:///{tmp_path}/o.db"), place_in(tmp_path / "other")) as (
        ledger,
        other,
    ):
        await fill(ledger, 0, 9)
        theirs = await other.full()
    (tmp_path / "other" / "place" / theirs.series).rename(place.root / theirs.series)
    with pytest.raises(PlaceOfAnother, match="several ledgers"):
        await restored(target, place)
    assert (await restored(target, place, series=ours.series)).event.reported_seq == 4


async def test_a_target_that_cannot_be_written_is_said_so(filled: Place, target: Ledger, tmp_path: Path) -> None:
    (tmp_path / "restored.db.restoring").mkdir()
    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        await restored(target, filled)


class Ears:
    """What a follower tells, and a way to wait for it."""

    def __init__(self) -> None:
        self.shipped: list[Shipped] = []
        self.faults: list[str] = []

    def follower(self, shipper: Shipper, full_every: float = 3600.0) -> Follower:
        return Follower(
            shipper, every=Seconds(0.02), full_every=Seconds(full_every),
            told=self.shipped.append, waited=lambda fault: self.faults.append(fault.text),
        )  # fmt: skip

    async def wait_shipped(self, seq: int) -> None:
        await eventually(lambda: any(one.taken.head.until.seq >= seq for one in self.shipped))


async def test_following_ships_what_comes_and_goes_on_where_it_stopped(
    config: Ledger, target: Ledger, place: Place
) -> None:
    ears = Ears()
    async with shipping(config, place) as (ledger, shipper):
        for first in (0, 10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ears.follower(shipper).run)
                await ears.wait_shipped(1)
                await fill(ledger, first, 3)
                await ears.wait_shipped((await ledger.head()).position.seq)
                nursery.cancel_scope.cancel()
    assert len({one.series for one in ears.shipped}) == 1
    assert [one.index for one in ears.shipped] == list(range(len(ears.shipped)))
    assert (await restored(target, place)).event.restored_seq == 7


async def test_following_waits_for_a_place_that_is_away(config: Ledger, tmp_path: Path) -> None:
    ears, place = Ears(), place_in(tmp_path)
    away = place.root.with_name("away")
    async with shipping(config, place) as (ledger, shipper), trio.open_nursery() as nursery:
        nursery.start_soon(ears.follower(shipper).run)
        await ears.wait_shipped(1)
        place.root.rename(away)
        await fill(ledger, 0, 1)
        await eventually(lambda: bool(ears.faults))
        away.rename(place.root)
        await ears.wait_shipped(2)
        nursery.cancel_scope.cancel()
    assert "cannot be written" in ears.faults[0]


async def test_a_fresh_full_backup_is_taken_beside_and_followed(config: Ledger, target: Ledger, place: Place) -> None:
    ears = Ears()
    async with shipping(config, place) as (ledger, shipper), trio.open_nursery() as nursery:
        nursery.start_soon(ears.follower(shipper, full_every=0.2).run)
        number = 0
        with trio.fail_after(20):
            while len({one.series for one in ears.shipped if one.index > 0}) < 3:
                await fill(ledger, number, 1)
                number += 1
        await ears.wait_shipped((await ledger.head()).position.seq)
        nursery.cancel_scope.cancel()
    made = await restored(target, place)
    assert made.event.restored_seq == number + 1
    assert made.counts["events"] == number + 1


async def test_a_follower_that_is_started_again_does_not_put_the_full_backup_off(config: Ledger, place: Place) -> None:
    """The day is counted from the full backup and not from the start."""
    now = [time()]
    async with open_ledger(config, HandClock()) as ledger:
        shipper = Shipper(ledger.database, place, lambda: now[0])
        first = await shipper.full()
        for hours, series in ((23.0, 1), (24.1, 2)):
            now[0] = first.taken.head.until.wall + 3600 * hours
            ears = Ears()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ears.follower(shipper, full_every=86_400.0).run)
                await ears.wait_shipped(1)
                if series == 2:
                    await eventually(lambda heard=ears: any(one.index == 0 for one in heard.shipped))
                nursery.cancel_scope.cancel()
            assert len(place.series()) == series


async def test_following_ends_where_waiting_does_not_help(config: Ledger, place: Place, tmp_path: Path) -> None:
    async with shipping(config, place) as (_, shipper):
        await shipper.full()
    async with shipping(elsewhere(config, f"sqlite:///{tmp_path}/another.db"), place) as (_, shipper):
        with pytest.raises(PlaceOfAnother):
            await Ears().follower(shipper).run()


@pytest.mark.postgres
async def test_following_waits_for_a_database_that_is_away(
    tmp_path: Path, place: Place, postgres_server: PostgresServer, postgres_url: str
) -> None:
    ears, config = Ears(), ledger_config(tmp_path, postgres_url)
    async with shipping(config, place) as (ledger, shipper), trio.open_nursery() as nursery:
        nursery.start_soon(ears.follower(shipper).run)
        await ears.wait_shipped(1)
        postgres_server.stop()
        try:
            await eventually(lambda: bool(ears.faults))
        finally:
            postgres_server.start()
        with trio.fail_after(30):
            while (await ledger.head()).position.seq < 2:
                try:
                    await fill(ledger, 0, 1)
                except LedgerUnavailable:
                    await trio.sleep(0.05)
        await ears.wait_shipped(2)
        nursery.cancel_scope.cancel()


async def test_reports_that_the_service_takes_are_shipped(config: Ledger, target: Ledger, place: Place) -> None:
    async with shipping(config, place) as (ledger, shipper):
        newest = (await shipper.full()).newest
        await Reports(ledger.database, time).take(ClientId("node-1"), "report-key-1", b"[1]")
        assert await shipper.tail(newest) is not None
    await restored(target, place)
    async with open_ledger(target, HandClock(NOW + 100)) as ledger:
        assert await Reports(ledger.database, time).take(ClientId("node-1"), "report-key-1", b"[1]") is False
