"""A write is effective when everybody has it, or when nobody can be current without it; and never before."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
import trio

from admin.ledger import barrier as barrier_module
from admin.ledger import presence as presence_module
from admin.ledger import register as register_module
from admin.ledger.barrier import Barrier, Effect, How, LedgerReplaced, Standing
from admin.ledger.instances import Membership, note
from admin.ledger.presence import MARGIN, WAIT_OUT
from admin.ledger.register import LedgerLostItsTail, Register, StruckOff
from admin.ledger.schema import instances, ledger_meta
from admin.ledger.sql import SqlLedger
from admin.ledger.store import LedgerUnavailable, Receipt
from engine.clock import Seconds
from engine.decision.freshness import CLOCK_RATE_MARGIN, MAX_SILENCE
from engine.feed.entries import Position
from engine.feed.questions import Question
from tests.support.feed_services import question
from tests.support.projection import new_consents, real_ledger

LONG = Seconds(60.0)  # far above what any of these waits takes
PATIENCE = 30.0  # below it
SHORT_WAIT_OUT = Seconds(0.3)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SqlLedger]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    async with real_ledger(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def register(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> Register:
    """One that has known the incarnation for long, and waits a seventh of the real time."""
    for module in (barrier_module, presence_module, register_module):
        monkeypatch.setattr(module, "WAIT_OUT", SHORT_WAIT_OUT)
    made = Register(ledger.database, time.time)
    await made.view()
    for incarnation in made._first_seen:
        made._first_seen[incarnation] -= LONG
    return made


@pytest.fixture
async def barrier(register: Register) -> Barrier:
    return Barrier(register)


async def commit(ledger: SqlLedger) -> Receipt:
    return await ledger.append(new_consents(1))


async def say(register: Register, position: Position, node_id: str = "node-1", instance: str = "a" * 16) -> Question:
    """A question that says what was applied, by way of Redis: heard, then admitted."""
    said = question(node_id, instance=instance, incarnation=position.incarnation, applied=position.seq)
    register.hear(said)
    await register.admit([said])
    return said


def named(effect: Effect) -> dict[str, bool]:
    return {node.node_id: node.acknowledged for node in effect.nodes}


def test_the_wait_covers_the_slowest_clock() -> None:
    assert pytest.approx(MAX_SILENCE * (1 + 2 * CLOCK_RATE_MARGIN) + MARGIN) == WAIT_OUT


async def test_all_have_acknowledged_before_the_call(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    receipt = await commit(ledger)
    await say(register, receipt.position)
    effect = await barrier.wait_effective(receipt, LONG)
    assert (effect.state, effect.how, effect.position) == (Standing.EFFECTIVE, How.ACKNOWLEDGED, receipt.position)
    assert named(effect) == {"node-1": True}
    assert effect.milliseconds < SHORT_WAIT_OUT * 1000


async def test_an_acknowledgement_ends_the_wait(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through the very last of several."""
    monkeypatch.setattr(barrier_module, "WAIT_OUT", LONG)
    before = (await ledger.head()).position
    names = [("node-1", "a" * 16), ("node-2", "b" * 16)]
    for name in names:
        await say(register, before, *name)
    receipt = await commit(ledger)
    effects: list[Effect] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                effects.append(await barrier.wait_effective(receipt, LONG))

            nursery.start_soon(wait)
            await say(register, receipt.position, *names[0])
            await trio.testing.wait_all_tasks_blocked()
            assert effects == []
            await say(register, receipt.position, *names[1])
    assert effects[0].how is How.ACKNOWLEDGED
    assert named(effects[0]) == {"node-1": True, "node-2": True}


async def test_what_others_read_of_the_table_serves_as_well(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round that hears a node reads the table anyway; a reading more would hold up the projector."""
    monkeypatch.setattr(barrier_module, "OTHERS_LOOK", LONG)
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    effects: list[Effect] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                effects.append(await barrier.wait_effective(receipt, LONG))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            ours = question(instance="a" * 16, incarnation=receipt.position.incarnation, applied=receipt.position.seq)
            register.hear(ours)
            await trio.testing.wait_all_tasks_blocked()
            assert effects == []  # what was read before the commit may not know who is there
            await register.view()
    assert (effects[0].how, named(effects[0])) == (How.ACKNOWLEDGED, {"node-1": True})


async def test_a_silent_node_is_waited_out_and_named(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    before = (await ledger.head()).position
    await say(register, before, "node-1", "a" * 16)
    await say(register, before, "node-2", "b" * 16)
    heard_by = time.time()
    receipt = await commit(ledger)
    await say(register, receipt.position, "node-2", "b" * 16)
    effect = await barrier.wait_effective(receipt, LONG)
    assert (effect.state, effect.how) == (Standing.EFFECTIVE, How.WAITED_OUT)
    assert named(effect) == {"node-1": False, "node-2": True}
    silent = next(node for node in effect.nodes if not node.acknowledged)
    assert 0 < silent.last_heard <= heard_by
    assert effect.milliseconds >= SHORT_WAIT_OUT * 1000


async def test_what_was_applied_under_another_incarnation_acknowledges_nothing(
    ledger: SqlLedger, register: Register, barrier: Barrier
) -> None:
    receipt = await commit(ledger)
    await say(register, Position("f" * 16, receipt.position.seq + 100))
    effect = await barrier.wait_effective(receipt, LONG)
    assert effect.how is How.WAITED_OUT
    assert named(effect) == {"node-1": False}


async def test_a_node_that_joins_after_the_commit_is_not_waited_for(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first answer carries a position that includes the commit."""
    monkeypatch.setattr(barrier_module, "WAIT_OUT", LONG)
    before = (await ledger.head()).position
    await say(register, before)
    receipt = await commit(ledger)
    effects: list[Effect] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                effects.append(await barrier.wait_effective(receipt, LONG))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await say(register, Position(before.incarnation, 0), "node-2", "b" * 16)
            await say(register, receipt.position)
    assert effects[0].how is How.ACKNOWLEDGED
    assert named(effects[0]) == {"node-1": True}


async def test_nobody_there_is_effective_at_once(ledger: SqlLedger, barrier: Barrier) -> None:
    effect = await barrier.wait_effective(await commit(ledger), LONG)
    assert (effect.how, effect.nodes) == (How.ACKNOWLEDGED, ())


async def test_an_instance_known_to_the_table_alone_counts(
    ledger: SqlLedger, register: Register, barrier: Barrier
) -> None:
    """It lives on HTTPS by way of another admin process: only the table tells of it."""
    before = (await ledger.head()).position
    said = question(incarnation=before.incarnation, applied=before.seq)
    await ledger.database.run(lambda connection: note(connection, [said], time.time()))
    receipt = await commit(ledger)
    assert (await barrier.wait_effective(receipt, LONG)).how is How.WAITED_OUT
    later = question(incarnation=before.incarnation, applied=receipt.position.seq)
    await ledger.database.run(lambda connection: note(connection, [later], time.time()))
    assert (await Barrier(register).wait_effective(receipt, LONG)).how is How.ACKNOWLEDGED
    assert register.presence.last_heard((await register.view()).members["a" * 16]) > 0


async def test_who_is_leaving_is_waited_for(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    """It may still be current by its last answer."""
    await say(register, (await ledger.head()).position)
    await register._write(list((await register.view()).members.values()), [])
    assert (await register.view()).members["a" * 16].state is Membership.LEAVING
    effect = await barrier.wait_effective(await commit(ledger), LONG)
    assert (effect.how, named(effect)) == (How.WAITED_OUT, {"node-1": False})


async def test_nobody_speaks_for_another_nodes_instance(
    ledger: SqlLedger, register: Register, barrier: Barrier
) -> None:
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    await say(register, receipt.position, "node-2", "a" * 16)
    assert (await barrier.wait_effective(receipt, LONG)).how is How.WAITED_OUT
    with pytest.raises(StruckOff):
        await register.check(question("node-2", instance="a" * 16))


async def test_time_runs_out_before_it_is_effective(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    effect = await barrier.wait_effective(receipt, Seconds(0.0))
    assert (effect.state, effect.how) == (Standing.RECORDED, None)
    assert named(effect) == {"node-1": False}


async def test_a_young_incarnation_is_waited_out(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    """A ledger restored from a back-up has an old table: somebody may be current whom it does not name."""
    receipt = await commit(ledger)
    await say(register, receipt.position)
    register._first_seen[receipt.position.incarnation] = trio.current_time()
    effect = await barrier.wait_effective(receipt, LONG)
    assert effect.milliseconds >= SHORT_WAIT_OUT * 1000 * 0.9
    assert effect.state is Standing.EFFECTIVE


async def test_a_replaced_ledger_is_said_so(ledger: SqlLedger, barrier: Barrier) -> None:
    receipt = await commit(ledger)
    await ledger.database.run(lambda c: c.execute(sa.update(ledger_meta).values(incarnation="f" * 16)))
    with pytest.raises(LedgerReplaced):
        await barrier.wait_effective(receipt, LONG)


async def test_a_new_incarnation_forgets_what_was_applied_under_the_old(ledger: SqlLedger, register: Register) -> None:
    await say(register, (await ledger.head()).position)
    assert (await register.view()).members["a" * 16].applied > 0
    await ledger.database.run(lambda c: c.execute(sa.update(ledger_meta).values(incarnation="f" * 16)))
    assert (await register.view()).members["a" * 16].applied == 0


async def test_a_ledger_that_does_not_answer_is_recorded_at_best(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = await commit(ledger)

    async def away() -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(register, "view", away)
    effect = await barrier.wait_effective(receipt, Seconds(SHORT_WAIT_OUT * 2))
    assert (effect.state, effect.how) == (Standing.RECORDED, None)


async def test_many_waits_share_their_reading(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = await commit(ledger)
    await say(register, receipt.position)
    reads, read = [], ledger.database.read

    async def counted(work: object) -> object:
        reads.append(work)
        return await read(work)  # type: ignore[arg-type] - passed on

    monkeypatch.setattr(ledger.database, "read", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(barrier.wait_effective, receipt, LONG)
    assert 1 <= len(reads) <= 4


async def test_a_marked_instance_is_forgotten_by_our_own_clock_alone(ledger: SqlLedger, register: Register) -> None:
    """The times in the table may be of a machine whose clock is days ahead."""
    await say(register, (await ledger.head()).position)
    row = {"state": "leaving", "since": time.time() - 86_400}
    await ledger.database.run(lambda c: c.execute(sa.update(instances).values(**row)))
    view = await register.view()
    await register.strike_off(view)
    assert "a" * 16 in (await register.view()).members
    now = trio.current_time()
    assert register.presence.expired(view.members.values(), now + SHORT_WAIT_OUT / 2) == []
    assert register.presence.expired(view.members.values(), now + SHORT_WAIT_OUT + 0.1) == [view.members["a" * 16]]


async def test_one_node_cannot_fill_the_table(ledger: SqlLedger, register: Register) -> None:
    head = (await ledger.head()).position
    asked = [question(instance=f"{n:016x}", incarnation=head.incarnation) for n in range(100)]
    await register.admit(asked)
    await register.admit([question(instance="f" * 16)])
    assert len((await register.view()).members) == 100
    with pytest.raises(StruckOff):
        await register.check(question(instance="e" * 16))
    await register.check(question("node-2", instance="e" * 16))
    with pytest.raises(LedgerLostItsTail):
        await register.check(question("node-2", instance="e" * 16, incarnation=head.incarnation, applied=head.seq + 1))


async def test_the_wait_counts_from_the_commit_and_not_from_the_call(
    ledger: SqlLedger, register: Register, barrier: Barrier
) -> None:
    """Asked again after the wait-out, with no time given, it is effective: a page that was reloaded says so at once."""
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    first = await barrier.wait_effective(receipt, LONG)
    again = await barrier.wait_effective(receipt, Seconds(0.0))
    assert (first.how, again.how) == (How.WAITED_OUT, How.WAITED_OUT)
    assert again.milliseconds >= first.milliseconds >= SHORT_WAIT_OUT * 1000


async def test_what_was_concluded_is_said_again(
    ledger: SqlLedger, register: Register, barrier: Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that joins later has no part in it, and nothing that was effective is `recorded` again."""
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    await say(register, receipt.position)
    first = await barrier.wait_effective(receipt, LONG)
    await say(register, Position(receipt.position.incarnation, 0), "node-2", "b" * 16)
    later = msgspec.structs.replace(receipt, committed_at=receipt.committed_at + 1)  # as a status call knows it
    assert await barrier.wait_effective(later, Seconds(0.0)) == first
    monkeypatch.setattr(barrier_module, "REMEMBERED", 1)
    another = await commit(ledger)
    await barrier.wait_effective(another, LONG)
    again = await barrier.wait_effective(receipt, LONG)  # forgotten, and concluded anew
    assert (again.state, set(named(again))) == (Standing.EFFECTIVE, {"node-1", "node-2"})


async def test_another_process_concludes_by_itself(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    """Any admin instance can be asked, and one that was restarted: it has not heard who acknowledged."""
    await say(register, (await ledger.head()).position)
    receipt = await commit(ledger)
    await say(register, receipt.position)
    assert (await barrier.wait_effective(receipt, LONG)).state is Standing.EFFECTIVE
    started = Register(ledger.database, time.time)
    other = Barrier(started)
    assert (await other.wait_effective(receipt, Seconds(0.0))).state is Standing.RECORDED
    effect = await other.wait_effective(receipt, LONG)
    assert effect.state is Standing.EFFECTIVE
    assert effect.position == receipt.position


async def test_milliseconds_count_from_the_commit(ledger: SqlLedger, register: Register, barrier: Barrier) -> None:
    receipt = await commit(ledger)
    await say(register, receipt.position)
    earlier = msgspec.structs.replace(receipt, committed_at=receipt.committed_at - 7)
    assert (await barrier.wait_effective(earlier, LONG)).milliseconds >= 7_000
    ahead = msgspec.structs.replace(receipt, committed_at=receipt.committed_at + 3600)  # a clock that was set back
    assert (await barrier.wait_effective(ahead, LONG)).milliseconds >= 0


async def test_a_write_that_the_ledger_has_lost_is_never_effective(ledger: SqlLedger, barrier: Barrier) -> None:
    receipt = await commit(ledger)
    lost = Position(receipt.position.incarnation, receipt.position.seq + 1)
    with pytest.raises(LedgerReplaced):
        await barrier.wait_effective(msgspec.structs.replace(receipt, position=lost), LONG)


async def test_who_has_applied_more_than_the_ledger_has_acknowledges_nothing(
    ledger: SqlLedger, register: Register, barrier: Barrier
) -> None:
    """The ledger lost its tail and gives the lost numbers to other events: the node has others under them."""
    head = (await ledger.head()).position
    await say(register, Position(head.incarnation, head.seq + 5))
    receipt = await commit(ledger)
    effect = await barrier.wait_effective(receipt, LONG)
    assert (effect.how, named(effect)) == (How.WAITED_OUT, {"node-1": False})
