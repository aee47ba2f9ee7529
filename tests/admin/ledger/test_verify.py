"""`verify` names the first entry that is wrong, whatever was done to the database behind the ledger's back."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from admin.config import Ledger
from admin.ledger.chain import link, said_by
from admin.ledger.checkpoints import Checkpoint, CheckpointKey
from admin.ledger.schema import checkpoints, events, feed_records, ledger_meta, subjects
from admin.ledger.sql import SqlLedger, open_ledger, open_reader
from admin.ledger.store import StoredEvent
from admin.ledger.verify import Verdict, verify
from tests.support.ledger import HandClock, change, ledger_config, tamper

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
