"""Group commit: what queues up is written together; each caller gets its own outcome; poison stands alone."""

import pytest
import trio
import trio.testing

from admin.ledger import writer
from admin.ledger.admission import Write
from admin.ledger.database import DatabaseFault
from admin.ledger.store import LedgerUnavailable, Receipt, VersionConflict
from admin.ledger.transaction import Outcome
from admin.ledger.writer import GroupCommit
from engine.errors import Fault
from engine.feed.entries import Position
from tests.support.ledger import change

POISON = change(666).subject


class Store:
    """Commits when it is let; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = trio.Event()
        self.gate.set()
        self.lost = False
        self._seq = 0

    async def commit(self, writes: list[Write]) -> list[Outcome]:
        subjects = [write.events[0].subject for write in writes]
        self.batches.append(subjects)
        await self.gate.wait()
        if self.lost:
            raise LedgerUnavailable("away")
        if POISON in subjects:
            raise DatabaseFault("refused")
        return [self._outcome(write) for write in writes]

    def _outcome(self, write: Write) -> Outcome:
        if write.events[0].expected_version:
            return VersionConflict("late")
        self._seq += 1
        return Receipt(Position("a" * 16, self._seq), 1, 0.0)


async def collect(group: GroupCommit, writes: list[Write]) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}

    async def submit(index: int, write: Write) -> None:
        try:
            outcomes[index] = await group.submit(write)
        except Fault as fault:
            outcomes[index] = fault

    async with trio.open_nursery() as nursery:
        for index, write in enumerate(writes):
            nursery.start_soon(submit, index, write)
    return [outcomes[index] for index in range(len(writes))]


def grant(number: int, version: int = 0) -> Write:
    return Write((change(number, version),))


async def test_what_queues_up_during_a_commit_is_written_together(nursery: trio.Nursery) -> None:
    store = Store()
    group = GroupCommit(store.commit)
    await nursery.start(group.run)
    store.gate = trio.Event()
    nursery.start_soon(group.submit, grant(0))
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(collect, group, [grant(number) for number in range(1, 50)])
    await trio.testing.wait_all_tasks_blocked()
    store.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    group.close()
    assert [len(batch) for batch in store.batches] == [1, 49]


async def test_batches_are_bounded(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_BATCH", 10)
    store = Store()
    group = GroupCommit(store.commit)
    await nursery.start(group.run)
    outcomes = await collect(group, [grant(number) for number in range(35)])
    group.close()
    assert len({outcome.position.seq for outcome in outcomes if isinstance(outcome, Receipt)}) == 35
    assert max(len(batch) for batch in store.batches) == 10


async def test_poisonous_write_is_refused_alone(nursery: trio.Nursery) -> None:
    group = GroupCommit(Store().commit)
    await nursery.start(group.run)
    outcomes = await collect(group, [grant(1), grant(666), grant(3), grant(4, 9)])
    group.close()
    assert [type(outcome) for outcome in outcomes] == [Receipt, DatabaseFault, Receipt, VersionConflict]


async def test_lost_database_is_told_to_all_and_the_next_batch_is_tried_again(nursery: trio.Nursery) -> None:
    store = Store()
    group = GroupCommit(store.commit)
    await nursery.start(group.run)
    store.lost = True
    outcomes = await collect(group, [grant(1), grant(2)])
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 2
    assert outcomes[0] is not outcomes[1]
    store.lost = False
    assert (await group.submit(grant(1))).version == 1
    group.close()


async def test_full_queue_refuses_at_once(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUED", 2)
    store = Store()
    group = GroupCommit(store.commit)
    await nursery.start(group.run)
    store.gate = trio.Event()
    nursery.start_soon(group.submit, grant(0))
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(collect, group, [grant(1), grant(2)])
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(LedgerUnavailable):
        await group.submit(grant(3))
    store.gate.set()
    group.close()


async def test_nothing_is_taken_before_the_start_and_after_the_end(nursery: trio.Nursery) -> None:
    group = GroupCommit(Store().commit)
    with pytest.raises(LedgerUnavailable):
        await group.submit(grant(1))
    await nursery.start(group.run)
    group.close()
    with pytest.raises(LedgerUnavailable):
        await group.submit(grant(1))


async def test_cancelled_worker_leaves_nobody_waiting() -> None:
    store = Store()
    group = GroupCommit(store.commit)
    outcomes: list[list[Outcome]] = []

    async def submit() -> None:
        outcomes.append(await collect(group, [grant(1), grant(2)]))

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        await inner.start(group.run)
        store.gate = trio.Event()
        outer.start_soon(submit)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    assert [type(outcome) for outcome in outcomes[0]] == [LedgerUnavailable] * 2


async def test_cancelled_caller_does_not_take_others_with_it(nursery: trio.Nursery) -> None:
    store = Store()
    group = GroupCommit(store.commit)
    await nursery.start(group.run)
    store.gate = trio.Event()
    with trio.CancelScope() as scope:
        nursery.start_soon(group.submit, grant(0))
        async with trio.open_nursery() as inner:
            inner.start_soon(group.submit, grant(1))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    store.gate.set()
    assert (await group.submit(grant(2))).position.seq == 3  # the cancelled write was done all the same
    group.close()
