"""What every ledger must do, whatever it is kept in. Each back end runs this suite on a real database."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
import trio
import trio.testing

from admin.config import Ledger as LedgerConfig
from admin.ledger import migrations
from admin.ledger.admission import InvalidWrite
from admin.ledger.bulk import NoLedger
from admin.ledger.chain import NO_HASH, Walk
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.database import DatabaseFault
from admin.ledger.genesis import WrongLedger, WrongPersonKey
from admin.ledger.reader import SqlLedgerReader
from admin.ledger.schema import events, ledger_meta, metadata, person_keys
from admin.ledger.sql import SqlLedger, open_ledger, open_reader
from admin.ledger.store import (
    Append,
    FeedRecord,
    Head,
    Idempotency,
    IdempotencyMismatch,
    LedgerUnavailable,
    Receipt,
    VersionConflict,
)
from admin.ledger.verify import Verdict, verify
from admin.ledger.vouching import Vouching
from admin.pki.key_files import write_private
from engine.clock import Seconds
from engine.errors import Fault
from engine.feed.entries import EntryKind, Position
from tests.support.ledger import HandClock, change, tamper, used


class LedgerContract:
    """Subclasses give `ledger_settings`: settings of a database that is still empty."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    async def ledger(self, ledger_settings: LedgerConfig, clock: HandClock) -> AsyncIterator[SqlLedger]:
        async with open_ledger(ledger_settings, clock, wall=clock.wall) as ledger:
            yield ledger

    async def test_subjects_are_read_together_as_one_by_one(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1, person="p-1"), change(2)])
        names = [change(number).subject for number in (1, 2, 3)]
        together = {one.subject: one for one in await ledger.subjects(names)}
        assert together == {name: await ledger.subject(name) for name in names[:2]}
        assert await ledger.subjects([]) == []

    async def test_new_ledger_begins_with_its_creation(self, ledger: SqlLedger) -> None:
        [first] = await ledger.events(0, 10)
        assert (first.position.seq, first.tag, first.subject) == (1, "ledger.created", "ledger")
        assert first.previous_hash == NO_HASH
        assert (await ledger.head()).hash == first.hash

    async def test_append_returns_position_version_and_time(self, ledger: SqlLedger, clock: HandClock) -> None:
        receipt = await ledger.append([change(1)])
        assert receipt == Receipt((await ledger.head()).position, 1, clock.wall())
        assert receipt.position.seq == 2

    async def test_stored_event_says_what_was_appended(self, ledger: SqlLedger, clock: HandClock) -> None:
        append = change(1, person="p-1", body=b"public")
        receipt = await ledger.append([append])
        [event] = await ledger.events(1, 10)
        assert event.position == receipt.position
        assert (event.subject, event.tag, event.version) == (append.subject, append.tag, 1)
        assert (event.body, event.feed, event.recorded_at) == (b"public", append.feed, clock.now())
        assert event.person_id == "p-1"
        assert event.ciphertext is not None
        assert b"meter points" not in event.ciphertext
        assert event.entry().record == b"record 0"

    async def test_event_without_feed_record_gives_an_empty_entry(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1, feed=False)])
        [event] = await ledger.events(1, 10)
        assert (event.feed, event.entry().kind, event.entry().seq) == (None, EntryKind.NOTHING, 2)

    async def test_receipt_of_many_events_is_that_of_the_last(self, ledger: SqlLedger) -> None:
        receipt = await ledger.append([change(1), change(2), change(1, 1)])
        assert (receipt.position.seq, receipt.version) == (4, 2)

    async def test_refused_write_of_many_events_leaves_nothing(self, ledger: SqlLedger) -> None:
        with pytest.raises(VersionConflict):
            await ledger.append([change(1), change(2, 7)])
        assert (await ledger.head()).position.seq == 1
        assert await ledger.subject(change(1).subject) is None

    async def test_second_event_of_a_new_subject_is_refused(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1)])
        with pytest.raises(VersionConflict):
            await ledger.append([change(1)])
        assert (await ledger.head()).position.seq == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            [],
            [msgspec.structs.replace(change(1), subject="")],
            [msgspec.structs.replace(change(1), subject="nul\x00")],
            [msgspec.structs.replace(change(1), tag="half a pair \ud800")],
            [change(1, person="p\x00")],
        ],
    )
    async def test_write_that_cannot_be_stored_is_refused(self, ledger: SqlLedger, wrong: list[Append]) -> None:
        with pytest.raises(InvalidWrite):
            await ledger.append(wrong)
        assert (await ledger.append([change(1)])).position.seq == 2

    async def test_refusal_does_not_spoil_the_writes_around_it(self, ledger: SqlLedger) -> None:
        outcomes = await _all(ledger, [[change(n, 0 if n % 3 else 5)] for n in range(30)])
        assert [isinstance(o, Receipt) for o in outcomes] == [n % 3 != 0 for n in range(30)]
        assert {type(o) for o in outcomes if not isinstance(o, Receipt)} == {VersionConflict}
        assert (await ledger.head()).position.seq == 21

    async def test_ten_writers_that_really_meet_make_one_event(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        async with AsyncExitStack() as stack:
            ledgers = [await stack.enter_async_context(open_ledger(ledger_settings, clock)) for _ in range(10)]
            meeting, outcomes = _Barrier(10), []

            async def write(ledger: SqlLedger) -> None:
                await meeting.wait()
                outcomes.append(await _outcome(ledger, [change(1)]))

            async with trio.open_nursery() as nursery:
                for ledger in ledgers:
                    nursery.start_soon(write, ledger)
            kinds = [type(outcome) for outcome in outcomes]
            assert (kinds.count(Receipt), kinds.count(VersionConflict)) == (1, 9)
            assert (await ledgers[0].head()).position.seq == 2

    async def test_numbers_have_no_gap_when_several_processes_write(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        async with AsyncExitStack() as stack:
            ledgers = [await stack.enter_async_context(open_ledger(ledger_settings, clock)) for _ in range(3)]
            positions: list[int] = []

            async def write(ledger: SqlLedger, first: int) -> None:
                for number in range(first, first + 10):
                    positions.append((await ledger.append([change(number)])).position.seq)

            async with trio.open_nursery() as nursery:
                for index in range(15):
                    nursery.start_soon(write, ledgers[index % 3], 1000 * index)
            assert sorted(positions) == list(range(2, 152))
            assert Walk().first_break(await ledgers[0].events(0, 1000)) is None

    async def test_reader_never_sees_an_event_before_its_predecessor(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig
    ) -> None:
        looks = 0
        async with open_reader(ledger_settings) as reader, trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(_append_some, ledger, 100 * index, 20)
            seen = 1
            while seen < 401:
                found = [event.position.seq for event in await reader.events(seen, 1000)]
                assert found == list(range(seen + 1, seen + 1 + len(found)))
                seen, looks = seen + len(found), looks + 1
                head = await reader.head()
                assert head.position.seq >= seen
        assert looks > 1

    async def test_events_are_paged(self, ledger: SqlLedger) -> None:
        await _append_some(ledger, 0, 6)
        assert [e.position.seq for e in await ledger.events(2, 3)] == [3, 4, 5]
        assert await ledger.events(7, 3) == []

    async def test_idempotency_key_with_the_same_body_gives_the_same_receipt(self, ledger: SqlLedger) -> None:
        first = await ledger.append([change(1)], used("k"))
        again = await ledger.append([change(1)], used("k"))
        assert (again.position, again.version, again.committed_at) == (first.position, 1, first.committed_at)
        assert (first.replayed, again.replayed) == (False, True)
        assert await ledger.replayed(used("k")) == again
        assert (await ledger.head()).position.seq == 2

    async def test_idempotency_key_with_another_body_is_refused(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1)], used("k"))
        with pytest.raises(IdempotencyMismatch):
            await ledger.append([change(2)], used("k", b"another request"))
        with pytest.raises(IdempotencyMismatch):
            await ledger.replayed(used("k", b"another request"))

    async def test_idempotency_keys_belong_to_their_client(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1)], used("k", client="atp-1"))
        receipt = await ledger.append([change(2)], used("k", b"another", client="atp-2"))
        assert not receipt.replayed

    async def test_unused_idempotency_key_has_no_receipt(self, ledger: SqlLedger) -> None:
        with pytest.raises(VersionConflict):
            await ledger.append([change(1, 4)], used("k"))
        assert await ledger.replayed(used("k")) is None

    async def test_copies_that_arrive_together_are_written_once(self, ledger: SqlLedger) -> None:
        outcomes = await _all(ledger, [[change(1)]] * 5, used("k"))
        assert [o.replayed for o in outcomes if isinstance(o, Receipt)].count(False) == 1
        assert len({o.position.seq for o in outcomes if isinstance(o, Receipt)}) == 1
        assert (await ledger.head()).position.seq == 2

    async def test_other_body_that_arrives_together_is_refused(self, ledger: SqlLedger) -> None:
        outcomes: list[Receipt | Fault] = []

        async def write(number: int) -> None:
            outcomes.append(await _outcome(ledger, [change(number)], used("k", b"%d" % number)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 1)
            nursery.start_soon(write, 2)
        assert {type(outcome) for outcome in outcomes} == {Receipt, IdempotencyMismatch}

    async def test_subject_is_its_newest_event(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1, person="p-1")])
        await ledger.append([change(1, 1, person="p-1", body=b"newer")])
        state = await ledger.subject(change(1).subject)
        assert state is not None
        assert (state.version, state.event.body, state.event.position.seq) == (2, b"newer", 3)
        assert state.personal == b"meter points of p-1"
        assert await ledger.subject("consent:unknown") is None

    async def test_records_are_the_newest_of_each_key_in_order(self, ledger: SqlLedger) -> None:
        await ledger.append([change(2), change(1), change(3)])
        await ledger.append([change(1, 1)])
        records = await ledger.records((0, b""), 10)
        assert [(seq, record.key[-1], record.record) for seq, record in records] == [
            (5, 1, b"record 1"),
            (2, 2, b"record 0"),
            (4, 3, b"record 0"),
        ]
        page = await ledger.records((int(EntryKind.CONSENT), records[0][1].key), 1)
        assert [record.key[-1] for _, record in page] == [2]

    async def test_records_are_ordered_by_kind_before_key(self, ledger: SqlLedger) -> None:
        policy = FeedRecord(EntryKind.POLICY, b"\x00", b"p")
        await ledger.append([Append("policy", "policy.changed", 0, b"", feed=policy), change(1)])
        assert [r.kind for _, r in await ledger.records((0, b""), 10)] == [EntryKind.CONSENT, EntryKind.POLICY]

    async def test_records_hold_the_last_of_several_in_one_write(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1), change(1, 1), change(1, 2)])
        assert [(seq, r.record) for seq, r in await ledger.records((0, b""), 10)] == [(4, b"record 2")]

    async def test_wait_wakes_on_a_commit_of_this_process(self, ledger: SqlLedger) -> None:
        head = (await ledger.head()).position.seq
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.append, [change(1)])
            while (await ledger.head()).position.seq == head:
                await ledger.wait_beyond(head)
        await ledger.wait_beyond(head)  # already so: returns at once

    async def test_wait_notices_another_process(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        head = (await ledger.head()).position.seq
        async with open_ledger(ledger_settings, clock) as other, trio.open_nursery() as nursery:
            nursery.start_soon(other.append, [change(1)])
            while (await ledger.head()).position.seq == head:
                await ledger.wait_beyond(head)
        assert (await ledger.head()).position.seq == head + 1

    async def test_wait_ends_without_news(self, ledger: SqlLedger) -> None:
        await ledger.wait_beyond(10)
        assert (await ledger.head()).position.seq == 1

    async def test_erased_person_cannot_be_read_and_the_chain_stays_whole(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig
    ) -> None:
        await ledger.append([change(1, person="p-1"), change(2, person="p-2")])
        assert await ledger.erase_person("p-1") is True
        assert await ledger.erase_person("p-1") is False
        erased, kept = await ledger.subject(change(1).subject), await ledger.subject(change(2).subject)
        assert erased is not None
        assert (erased.personal, erased.event.person_id) == (None, "p-1")
        assert kept is not None
        assert kept.personal == b"meter points of p-2"
        assert (await _verdict(ledger, ledger_settings)).fault is None

    async def test_new_key_of_an_erased_person_does_not_open_older_fields(self, ledger: SqlLedger) -> None:
        await ledger.append([change(1, person="p-1")])
        await ledger.erase_person("p-1")
        await ledger.append([change(2, person="p-1")])
        old, new = await ledger.subject(change(1).subject), await ledger.subject(change(2).subject)
        assert old is not None
        assert new is not None
        assert (old.personal, new.personal) == (None, b"meter points of p-1")

    async def test_erasure_holds_in_a_process_that_had_the_key_in_use(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        await ledger.append([change(1, person="p-1")])
        async with open_ledger(ledger_settings, clock) as other:
            await other.erase_person("p-1")
        state = await ledger.subject(change(1).subject)
        assert state is not None
        assert state.personal is None

    @pytest.mark.parametrize("table", ["events", "checkpoints"])
    @pytest.mark.parametrize("action", ["UPDATE {} SET hash = hash", "DELETE FROM {}", "TRUNCATE {}"])
    async def test_history_only_grows(self, ledger: SqlLedger, table: str, action: str) -> None:
        await ledger.append([change(1)])
        await ledger.checkpoint()
        with pytest.raises(DatabaseFault):
            await ledger.database.run(lambda connection: connection.exec_driver_sql(action.format(table)))
        assert len(await ledger.events(0, 10)) == 2

    @pytest.mark.parametrize(("table", "key"), [("events", "seq"), ("checkpoints", "incarnation, seq")])
    async def test_no_row_of_history_is_replaced(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig, table: str, key: str
    ) -> None:
        """By somebody else's connection, which set nothing up as ours do."""
        await ledger.append([change(1)])
        await ledger.checkpoint()
        foreign = sa.create_engine(ledger_settings.url)
        row = f"INTO {table} SELECT * FROM {table} WHERE seq = 2"  # noqa: S608 - names of ours
        upsert = f"INSERT {row} ON CONFLICT ({key}) DO UPDATE SET hash = excluded.hash"
        sqlite_only = [f"REPLACE {row}", f"INSERT OR REPLACE {row}"] if foreign.dialect.name == "sqlite" else []
        for statement in (upsert, *sqlite_only):
            with pytest.raises(sa.exc.DBAPIError, match="only grows"), foreign.begin() as connection:
                connection.exec_driver_sql(statement)
        foreign.dispose()
        assert (await _verdict(ledger, ledger_settings)).fault is None

    async def test_checkpoints_are_made_every_so_many_events(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        async with open_ledger(ledger_settings, clock, checkpoint_every=4) as ledger:
            for number in range(10):
                await ledger.append([change(number)])
            assert [checkpoint.seq for checkpoint in await ledger.checkpoints(0, 10)] == [4, 8]
            await ledger.checkpoint()
            await ledger.checkpoint()
            made = await ledger.checkpoints(8, 10)
            assert [(c.seq, c.hash) for c in made] == [(11, (await ledger.head()).hash)]
            assert (await _verdict(ledger, ledger_settings)).fault is None

    async def test_processes_that_start_together_make_one_ledger(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        incarnations: set[str] = set()

        async def start() -> None:
            async with open_ledger(ledger_settings, clock) as ledger:
                incarnations.add((await ledger.head()).position.incarnation)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(start)
        async with open_reader(ledger_settings) as reader:
            assert [event.tag for event in await reader.events(0, 10)] == ["ledger.created"]
        assert len(incarnations) == 1

    async def test_ledger_of_the_first_schema_is_brought_up_to_date(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        async with open_ledger(ledger_settings, clock) as ledger:
            await ledger.append([change(1, person="p-1")])
        back = (
            "DROP TABLE answer_keys",
            "DROP TABLE erasures",
            *(
                f"DROP TABLE {name}"
                for name in ("outbox", "receivers", "streams", "stream_calls", "deliveries", "push_lease", "event_keys")
            ),
            "DROP INDEX ix_idempotency_seq",
            "DROP INDEX ix_claims_claimed_at",
            "DROP INDEX ix_reports_received_at",
            "ALTER TABLE ledger_meta DROP COLUMN key_check",
            "UPDATE alembic_version SET version_num = '0001'",
        )
        tamper(ledger_settings.url, *map(sa.text, back))
        async with open_reader(ledger_settings) as reader:  # which changes nothing
            assert (await _verdict(reader, ledger_settings)).fault is None
        async with open_ledger(ledger_settings, clock) as ledger:
            await ledger.append([change(2, person="p-1")])
            key_check = await ledger.database.read(lambda c: c.execute(sa.select(ledger_meta.c.key_check)).scalar())
            assert key_check is not None
            await ledger.database.run(migrations.check)

    async def test_waiting_takes_its_time_where_the_ledger_has_lost_what_was_known(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await ledger.append([change(1)])
        await ledger.append([change(2)])
        kept = sa.select(events.c.hash).where(events.c.seq == 2).scalar_subquery()
        rewind = sa.update(ledger_meta).values(head_seq=2, head_hash=kept)
        tamper(ledger_settings.url, rewind, sa.delete(events).where(events.c.seq > 2))
        head, looks = ledger.head, 0

        async def look() -> Head:
            nonlocal looks
            looks += 1
            return await head()

        monkeypatch.setattr(ledger, "head", look)
        await ledger.wait_beyond(2)
        assert 2 < looks < 15  # it waited a second, a tenth of it between two looks

    async def test_another_wrapping_key_is_refused(
        self, ledger_settings: LedgerConfig, clock: HandClock, tmp_path: Path
    ) -> None:
        """Though no person has fields yet."""
        async with open_ledger(ledger_settings, clock):
            pass
        write_private(tmp_path / "another.key", bytes(range(32)))
        other = msgspec.structs.replace(ledger_settings, person_key_file=tmp_path / "another.key")
        with pytest.raises(WrongPersonKey, match="person-key-file"):
            async with open_ledger(other, clock):
                pass
        async with open_ledger(ledger_settings, clock) as ledger:
            await ledger.append([change(1, person="p-1")])

    @pytest.mark.parametrize("persons", [0, 3])
    async def test_older_ledger_takes_the_wrapping_key_that_fits(
        self, ledger_settings: LedgerConfig, clock: HandClock, tmp_path: Path, persons: int
    ) -> None:
        async with open_ledger(ledger_settings, clock) as ledger:
            for number in range(persons):
                await ledger.append([change(number, person=f"p-{number}")])
        damaged = sa.update(person_keys).where(person_keys.c.person_id == "p-0").values(wrapped_key=bytes(60))
        tamper(ledger_settings.url, sa.update(ledger_meta).values(key_check=None), damaged)
        write_private(tmp_path / "another.key", bytes(range(32)))
        other = msgspec.structs.replace(ledger_settings, person_key_file=tmp_path / "another.key")
        if persons:
            with pytest.raises(WrongPersonKey):
                async with open_ledger(other, clock):
                    pass
        async with open_ledger(ledger_settings, clock):
            pass
        with pytest.raises(WrongPersonKey):
            async with open_ledger(other, clock):
                pass

    async def test_head_is_vouched_for_at_the_start_and_again_when_it_has_moved(
        self, ledger: SqlLedger, ledger_settings: LedgerConfig
    ) -> None:
        vouching = Vouching(ledger, every=Seconds(0.01))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(vouching.run)
                assert [made.seq for made in await ledger.checkpoints(0, 10)] == [1]
                await ledger.append([change(1)])
                while len(await ledger.checkpoints(0, 10)) < 2:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await ledger.append([change(2)])
        await vouching.try_once()
        await vouching.try_once()
        assert [made.seq for made in await ledger.checkpoints(0, 10)] == [1, 2, 3]
        assert (await _verdict(ledger, ledger_settings)).fault is None

    async def test_empty_database_is_not_read(self, ledger_settings: LedgerConfig) -> None:
        with pytest.raises(NoLedger):
            async with open_reader(ledger_settings):
                pass

    async def test_ledger_of_the_other_kind_is_refused(self, ledger_settings: LedgerConfig, clock: HandClock) -> None:
        async with open_ledger(ledger_settings, clock):
            pass
        other = msgspec.structs.replace(ledger_settings, kind="production")
        with pytest.raises(WrongLedger, match="this is a sandbox ledger"):
            async with open_ledger(other, clock):
                pass

    async def test_reopened_ledger_goes_on(self, ledger_settings: LedgerConfig, clock: HandClock) -> None:
        async with open_ledger(ledger_settings, clock) as ledger:
            before = await ledger.append([change(1)])
        async with open_ledger(ledger_settings, clock) as ledger:
            after = await ledger.append([change(1, 1)])
            assert after.position == Position(before.position.incarnation, before.position.seq + 1)
            assert Walk().first_break(await ledger.events(0, 10)) is None

    async def test_closed_ledger_writes_what_is_queued_and_takes_no_more(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        outcomes: list[Receipt | Fault] = []

        async def write(ledger: SqlLedger, number: int) -> None:
            outcomes.append(await _outcome(ledger, [change(number)]))

        async with trio.open_nursery() as nursery:
            async with open_ledger(ledger_settings, clock) as ledger:
                for number in range(50):
                    nursery.start_soon(write, ledger, number)
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(LedgerUnavailable):
                await ledger.append([change(99)])
        assert [type(outcome) for outcome in outcomes] == [Receipt] * 50

    async def test_exception_in_the_body_comes_out_as_it_is(
        self, ledger_settings: LedgerConfig, clock: HandClock
    ) -> None:
        with pytest.raises(KeyError):
            async with open_ledger(ledger_settings, clock):
                raise KeyError

    async def test_cancelled_write_is_done_or_not_and_its_key_tells(self, ledger: SqlLedger) -> None:
        dice = random.Random(20)  # noqa: S311 - not for secrets
        for number in range(40):
            with trio.move_on_after(dice.random() * 0.01):
                await ledger.append([change(number)], used(f"k{number}"))
        await ledger.append([change(1000)])  # every earlier write is settled before this one
        for number in range(40):
            state = await ledger.subject(change(number).subject)
            receipt = await ledger.replayed(used(f"k{number}"))
            assert (state is None) == (receipt is None)
        assert Walk().first_break(await ledger.events(0, 100)) is None

    async def test_schema_is_what_the_migrations_make(self, ledger: SqlLedger) -> None:
        await ledger.database.run(migrations.check)
        names = await ledger.database.read(lambda connection: {*sa.inspect(connection).get_table_names()})
        assert names == {*metadata.tables, "alembic_version"}


class _Barrier:
    """Lets nobody pass until all have come."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._open = trio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._open.set()
        await self._open.wait()


async def _outcome(ledger: SqlLedger, events: list[Append], key: Idempotency | None = None) -> Receipt | Fault:
    try:
        return await ledger.append(events, key)
    except Fault as fault:
        return fault


async def _all(ledger: SqlLedger, writes: list[list[Append]], key: Idempotency | None = None) -> list[Receipt | Fault]:
    """Append all at the same time; the outcomes in their order."""
    outcomes: dict[int, Receipt | Fault] = {}

    async def one(index: int, events: list[Append]) -> None:
        outcomes[index] = await _outcome(ledger, events, key)

    async with trio.open_nursery() as nursery:
        for index, events in enumerate(writes):
            nursery.start_soon(one, index, events)
    return [outcomes[index] for index in range(len(writes))]


async def _append_some(ledger: SqlLedger, first: int, count: int) -> None:
    for number in range(first, first + count):
        await ledger.append([change(number)])


async def _verdict(ledger: SqlLedgerReader, settings: LedgerConfig) -> Verdict:
    return await verify(ledger, CheckpointKey.from_file(settings.checkpoint_key_file))
