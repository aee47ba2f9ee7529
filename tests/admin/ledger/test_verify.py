"""`verify` names the first entry that is wrong, whatever was done to the database behind the ledger's back."""

from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa

from admin.config import Ledger
from admin.edge import STATUSES
from admin.ledger.chain import Break, link, said_by
from admin.ledger.checkpoints import Checkpoint, CheckpointKey
from admin.ledger.schema import checkpoints, events, feed_records, ledger_meta, person_keys, subjects
from admin.ledger.sql import SqlLedger, open_ledger, open_reader
from admin.ledger.store import LedgerDamaged, StoredEvent
from admin.ledger.verify import Verdict, verify
from tests.support.ledger import HandClock, change, ledger_config, tamper
from tests.support.postgres import PostgresServer

LAST = 13  # the creation, ten grants, two renewals
CHECKED = (6, 12)  # checkpoints at every sixth


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def config(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger of thirteen events, closed again."""
    on_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if on_postgres else f"sqlite:///{tmp_path}/ledger.db"
    config = ledger_config(tmp_path, url)
    async with open_ledger(config, HandClock(), checkpoint_every=6) as ledger:
        for number in range(10):
            await ledger.append([change(number, person="p-1" if number == 4 else None)])
        await ledger.append([change(0, 1)])
        await ledger.append([change(1, 1)])
    return config


async def verdict(config: Ledger, against: tuple[Checkpoint, ...] = ()) -> Verdict:
    async with open_reader(config) as reader:
        return await verify(reader, CheckpointKey.from_file(config.checkpoint_key_file), against=against)


async def fault_after(config: Ledger, *statements: sa.Executable) -> tuple[int, str]:
    tamper(config.url, *statements)
    fault = (await verdict(config)).fault
    assert fault is not None
    return fault.seq, fault.what


def set_event(at: int, **values: Any) -> sa.Update:
    return sa.update(events).where(events.c.seq == at).values(**values)


async def test_untouched_ledger_is_whole(config: Ledger) -> None:
    found = await verdict(config)
    assert (found.fault, found.events, found.checkpoints) == (None, LAST, len(CHECKED))
    assert found.newest is not None
    assert (found.head.position.seq, found.newest.seq) == (LAST, 12)


@pytest.mark.parametrize(
    "values",
    [
        {"body": b"\x81"},
        {"subject": "consent:another"},
        {"tag": "consent.revoked"},
        {"version": 9},
        {"recorded_at": 1},
        {"person_id": "p-2"},
        {"person_id": None},
        {"ciphertext": b"another"},
        {"feed_record": b"another"},
        {"feed_key": b"another"},
        {"feed_kind": 3},
        {"incarnation": "0123456789abcdef"},
        {"hash": bytes(32)},
        {"previous_hash": bytes(32)},
    ],
    ids=lambda values: next(iter(values)),
)
async def test_changed_event_is_named(config: Ledger, values: dict[str, Any]) -> None:
    seq, _ = await fault_after(config, set_event(6, **values))
    assert seq == 6


async def test_changed_byte_is_called_so(config: Ledger) -> None:
    assert await fault_after(config, set_event(6, body=b"\x81")) == (6, "its contents do not match its hash")


async def test_first_of_several_wrong_events_is_named(config: Ledger) -> None:
    seq, _ = await fault_after(config, set_event(9, body=b"\x81"), set_event(4, body=b"\x81"))
    assert seq == 4


async def test_removed_event_is_missed(config: Ledger) -> None:
    found = await fault_after(config, sa.delete(events).where(events.c.seq.in_([5, 6])))
    assert found == (7, "events 5 to 6 are missing before it")


async def test_removed_first_event_is_missed(config: Ledger) -> None:
    assert (await fault_after(config, sa.delete(events).where(events.c.seq == 1)))[0] == 2


async def test_removed_end_is_missed(config: Ledger) -> None:
    assert await fault_after(config, sa.delete(events).where(events.c.seq == LAST)) == (
        LAST,
        f"events {LAST} to {LAST} are missing at the end",
    )


async def test_end_cut_off_behind_a_checkpoint_is_missed(config: Ledger) -> None:
    """Somebody removed the end and set the head back."""
    tamper(config.url, sa.delete(events).where(events.c.seq > 10))
    rewind = sa.update(ledger_meta).values(
        head_seq=10, head_hash=sa.select(events.c.hash).where(events.c.seq == 10).scalar_subquery()
    )
    seq, what = await fault_after(config, rewind)
    assert (seq, what) == (12, "a checkpoint vouches for this event, which is not there")


async def test_inserted_event_is_named(config: Ledger) -> None:
    """Room was made for it by moving the events behind it."""
    copy = sa.insert(events).from_select(
        [column.name for column in events.columns],
        sa.select(*(sa.literal(7) if column is events.c.seq else column for column in events.columns)).where(
            events.c.seq == 1006
        ),
    )
    away = sa.update(events).where(events.c.seq >= 6).values(seq=events.c.seq + 1000)
    back = sa.update(events).where(events.c.seq == 1006).values(seq=6)
    later = sa.update(events).where(events.c.seq > 1006).values(seq=events.c.seq - 999)
    seq, what = await fault_after(config, away, copy, back, later)
    assert (seq, what) == (7, "its contents do not match its hash")


@pytest.mark.parametrize("seq", [0, -5])
async def test_event_before_the_first_is_named(config: Ledger, seq: int) -> None:
    moved = sa.update(events).where(events.c.seq == LAST).values(seq=seq)
    assert await fault_after(config, moved) == (seq, "its number is out of order")


async def test_swapped_events_are_named(config: Ledger) -> None:
    found = await fault_after(config, set_event(5, seq=1000), set_event(6, seq=5), set_event(1000, seq=6))
    assert found == (5, "its contents do not match its hash")


async def test_event_behind_the_head_is_named(config: Ledger) -> None:
    async with open_reader(config) as reader:
        [last] = await reader.events(LAST - 1, 1)
    said = (LAST + 1, *said_by(last)[1:])
    row = dict(zip([column.name for column in events.columns], (*said, last.hash, link(last.hash, said)), strict=True))
    assert await fault_after(config, sa.insert(events).values(**row)) == (
        LAST + 1,
        "it stands behind the ledger's head",
    )


async def test_rewritten_chain_is_shown_by_a_checkpoint(config: Ledger) -> None:
    """Everything from event 5 on was made anew, hashes and head included; only the checkpoint key was not at hand."""
    async with open_reader(config) as reader:
        rewritten = rewrite(list(await reader.events(0, 100)), 5)
    head = sa.update(ledger_meta).values(head_hash=rewritten[-1].hash)
    found = await fault_after(config, *(replacement(event) for event in rewritten), head)
    assert found == (6, "its hash is not the one that a checkpoint vouches for")


async def test_rewritten_chain_without_its_checkpoints_is_shown_by_one_that_was_kept(config: Ledger) -> None:
    kept = (await verdict(config)).newest
    async with open_reader(config) as reader:
        rewritten = rewrite(list(await reader.events(0, 100)), 5)
    head = sa.update(ledger_meta).values(head_hash=rewritten[-1].hash)
    tamper(config.url, sa.delete(checkpoints), *(replacement(event) for event in rewritten), head)
    assert (await verdict(config)).fault is None  # nothing inside can show it
    assert kept is not None
    fault = (await verdict(config, (kept,))).fault
    assert fault is not None
    assert fault.seq == 12


async def test_versions_that_do_not_count_up_are_named(config: Ledger) -> None:
    """A chain that fits, written by somebody who had no checkpoint to fear."""
    async with open_reader(config) as reader:
        rewritten = rewrite(list(await reader.events(0, 100)), LAST, version=3)
    head = sa.update(ledger_meta).values(head_hash=rewritten[-1].hash)
    found = await fault_after(config, *(replacement(event) for event in rewritten), head)
    assert found == (LAST, "its subject's versions do not count up one by one")


@pytest.mark.parametrize("column", ["hash", "signature", "kid", "signed_at"])
async def test_changed_checkpoint_is_named(config: Ledger, column: str) -> None:
    value = {"hash": bytes(32), "signature": bytes(64), "kid": "0" * 16, "signed_at": 5}[column]
    seq, what = await fault_after(config, sa.update(checkpoints).where(checkpoints.c.seq == 6).values({column: value}))
    assert (seq, "checkpoint" in what) == (6, True)


@pytest.mark.parametrize(
    "statement",
    [
        sa.update(subjects).where(subjects.c.seq == 5).values(version=7),
        sa.delete(subjects).where(subjects.c.seq == 5),
        sa.insert(subjects).values(subject="consent:made-up", version=1, seq=5),
    ],
    ids=["changed", "removed", "added"],
)
async def test_subjects_that_differ_are_named(config: Ledger, statement: sa.Executable) -> None:
    assert await fault_after(config, statement) == (5, "the table of subjects does not say what the events say")


@pytest.mark.parametrize(
    "statement",
    [
        sa.update(feed_records).where(feed_records.c.seq == 5).values(record=b"another"),
        sa.update(feed_records).where(feed_records.c.seq == 5).values(seq=4),
        sa.delete(feed_records).where(feed_records.c.seq == 5),
        sa.insert(feed_records).values(kind=1, key=b"made-up", record=b"", seq=5),
    ],
    ids=["changed", "renumbered", "removed", "added"],
)
async def test_feed_records_that_differ_are_named(config: Ledger, statement: sa.Executable) -> None:
    seq, what = await fault_after(config, statement)
    assert what == "the table of feed records does not say what the events say"
    assert seq in {4, 5}


async def test_moved_head_is_named(config: Ledger) -> None:
    found = await fault_after(config, sa.update(ledger_meta).values(head_hash=bytes(32)))
    assert found == (LAST, "it is not what the ledger's head says")


async def test_verify_keeps_up_with_a_ledger_that_is_written_to(config: Ledger) -> None:
    async with open_ledger(config, HandClock()) as ledger:
        total = 0

        def write_on(walked: int, _all: int) -> None:
            nonlocal total
            total = walked
            ledger.database.transact(lambda connection: _append_inside(ledger, connection))

        found = await verify(ledger, CheckpointKey.from_file(config.checkpoint_key_file), progress=write_on)
        assert found.fault is None
        assert found.events == LAST + 1
        assert total == LAST


def _append_inside(ledger: SqlLedger, connection: sa.Connection) -> None:
    from admin.ledger.admission import Write

    ledger._transaction.append(connection, [Write((change(500),))])


def rewrite(history: list[StoredEvent], first: int, **values: Any) -> list[StoredEvent]:
    """What a forger makes of the events from `first` on: the first changed, all hashes made to fit."""
    rewritten: list[StoredEvent] = []
    for event in history[first - 1 :]:
        changed = msgspec.structs.replace(event, **(values or {"body": b"\x81"})) if not rewritten else event
        previous = rewritten[-1].hash if rewritten else changed.previous_hash
        own = link(previous, said_by(changed))
        rewritten.append(msgspec.structs.replace(changed, previous_hash=previous, hash=own))
    return rewritten


def replacement(event: StoredEvent) -> sa.Update:
    names = [column.name for column in events.columns]
    row = dict(zip(names, (*said_by(event), event.previous_hash, event.hash), strict=True))
    return sa.update(events).where(events.c.seq == event.position.seq).values(**row)


async def test_end_cut_off_with_everything_that_tells_of_it_is_shown_by_a_checkpoint_that_was_kept(
    config: Ledger,
) -> None:
    """The head, the subjects, the records and the checkpoints were all made to fit the shorter history."""
    kept = (await verdict(config)).newest
    assert kept is not None
    last = sa.select(events.c.hash).where(events.c.seq == 9).scalar_subquery()
    tamper(
        config.url,
        *(sa.delete(table).where(table.c.seq > 9) for table in (events, checkpoints, subjects, feed_records)),
        sa.update(ledger_meta).values(head_seq=9, head_hash=last),
    )
    await restore_derived(config, 9)
    assert (await verdict(config)).fault is None  # nothing inside can show it
    fault = (await verdict(config, (kept,))).fault
    assert fault == Break(12, "a checkpoint vouches for this event, which is not there")


async def restore_derived(config: Ledger, last: int) -> None:
    """As a forger would, who has read our code: rows whose newest event is gone fall back to the one before."""
    async with open_reader(config) as reader:
        history = await reader.events(0, last)
    rows = {event.subject: {"subject": event.subject, "version": event.version, "seq": event.position.seq}
            for event in history}  # fmt: skip
    records = {(e.feed.kind, e.feed.key): (e.position.seq, e.feed.record) for e in history if e.feed}
    tamper(
        config.url,
        sa.delete(subjects),
        sa.insert(subjects).values(list(rows.values())),
        sa.delete(feed_records),
        sa.insert(feed_records).values(
            [{"kind": int(k), "key": key, "seq": s, "record": r} for (k, key), (s, r) in records.items()]
        ),
    )


async def test_kind_that_differs_from_the_first_event_is_named(config: Ledger) -> None:
    found = await fault_after(config, sa.update(ledger_meta).values(kind="production"))
    assert found == (1, "it begins a sandbox ledger, the ledger's head calls it production")


async def test_missing_person_keys_are_told_and_no_fault(config: Ledger) -> None:
    found = await verdict(config)
    assert (found.persons, found.erased) == (1, 0)
    tamper(config.url, sa.delete(person_keys))
    found = await verdict(config)
    assert (found.fault, found.persons, found.erased) == (None, 1, 1)


@pytest.mark.parametrize("table", ["ledger_meta", "events", "checkpoints", "subjects", "feed_records", "person_keys"])
async def test_missing_table_is_damage(config: Ledger, table: str) -> None:
    tamper(config.url, sa.text(f"DROP TABLE {table}"))
    found = await verdict(config)
    assert found.fault is not None
    assert "the database is damaged" in found.fault.what
    assert found.events == (0 if table in {"events", "checkpoints"} else LAST)


async def test_missing_column_is_damage(config: Ledger) -> None:
    tamper(config.url, sa.text("ALTER TABLE events DROP COLUMN body"))
    found = await verdict(config)
    assert found.fault is not None
    assert "the database is damaged" in found.fault.what


async def test_missing_head_is_damage(config: Ledger) -> None:
    tamper(config.url, sa.delete(ledger_meta))
    found = await verdict(config)
    assert found.fault is not None
    assert (found.fault.seq, found.head.position.seq) == (LAST + 1, LAST)
    assert f"event {LAST} is the last that could be checked" in found.fault.what


async def test_damaged_database_is_not_told_to_be_away(config: Ledger) -> None:
    tamper(config.url, sa.text("DROP TABLE events"))
    async with open_reader(config) as reader:
        with pytest.raises(LedgerDamaged, match="ccs ledger verify"):
            await reader.events(0, 1)
    assert STATUSES[LedgerDamaged.kind] == 500
    with pytest.raises(LedgerDamaged):
        async with open_ledger(config, HandClock()):
            pass


# --- files that a disk or a stray program has spoilt ----------------------------------------------------------------


async def long_ledger(directory: Path, events_in_all: int) -> tuple[Ledger, Path]:
    """On SQLite, with nothing left in its log."""
    config = ledger_config(directory, f"sqlite:///{directory}/ledger.db")
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(number) for number in range(events_in_all - 1)])
        await ledger.database.scrub()
    return config, directory / "ledger.db"


async def test_spoilt_page_is_found_with_the_last_event_before_it(tmp_path: Path) -> None:
    config, file = await long_ledger(tmp_path, 600)
    raw = bytearray(file.read_bytes())
    page = raw.index(b"consent:" + str(UUID(int=398)).encode()) // 4096  # of event 400
    raw[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    file.write_bytes(raw)
    found = await verdict(config)
    assert found.fault is not None
    assert 350 < found.events < 400
    assert found.fault.seq == found.events + 1
    assert f"event {found.events} is the last that could be checked" in found.fault.what


async def test_file_cut_short_is_damage(tmp_path: Path) -> None:
    config, file = await long_ledger(tmp_path, 600)
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2 // 4096 * 4096])
    fault = (await verdict(config)).fault
    assert fault is not None
    assert "the database is damaged" in fault.what


async def test_file_that_is_no_database_is_damage(tmp_path: Path) -> None:
    config, file = await long_ledger(tmp_path, 10)
    file.write_bytes(b"\xde\xad" * 8192)
    found = await verdict(config)
    assert found.fault == Break(1, "the database is damaged; no event can be read")
    assert (found.events, found.head.position.seq) == (0, 0)


async def test_text_that_is_none_is_damage(tmp_path: Path) -> None:
    config, file = await long_ledger(tmp_path, 30)
    subject = f"consent:{UUID(int=9)}".encode()
    file.write_bytes(file.read_bytes().replace(subject, b"\xff" * len(subject)))
    found = await verdict(config)
    assert found.fault is not None
    assert (found.fault.seq, found.events) == (11, 10)
    assert "the database is damaged" in found.fault.what


@pytest.mark.postgres
async def test_spoilt_table_file_on_postgres_is_found_with_the_last_event_before_it(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    config = ledger_config(tmp_path, postgres_server.new_database())
    async with open_ledger(config, HandClock()) as ledger:
        await ledger.append([change(number) for number in range(600)])
        where = await ledger.database.read(
            lambda c: c.exec_driver_sql(
                "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('events')"
            ).scalar_one()
        )
    with postgres_server.connect() as connection:
        connection.execute("CHECKPOINT")  # else the server would write the pages again when it starts
    postgres_server.stop()
    with Path(where).open("r+b") as file:  # noqa: ASYNC230 - nothing else runs
        file.seek(5 * 8192)
        file.write(b"\xff" * 24)
    postgres_server.start()
    found = await verdict(config)
    assert found.fault is not None
    assert 20 < found.events < 600
    assert f"event {found.events} is the last that could be checked" in found.fault.what
