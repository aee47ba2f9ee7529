"""Answers come to whoever may have them, carry a position read after the question, and end for the silent."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from admin.ledger import presence as presence_module
from admin.ledger.instances import Member, Membership, View
from admin.ledger.nodes import KnownNodes
from admin.ledger.questions import Questions
from admin.ledger.register import Register
from admin.ledger.sql import SqlLedger
from engine.clock import Seconds
from engine.feed.entries import Position
from engine.feed.questions import Answer, Question, seal_question, unseal_answer
from engine.feed.redis_client import RedisClient
from engine.feed.redis_names import ASKED, answers_key, question_key
from tests.support.feed_services import question
from tests.support.projection import (
    MAC_KEY,
    SEALER,
    append_all,
    new_consents,
    participant_event,
    projector_of,
    real_ledger,
    subscription_of,
)
from tests.support.valkey import Valkey, client_of

PATIENCE = 30.0  # against hanging only


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with real_ledger(tmp_path) as opened:
        await opened.append([participant_event("node-1"), participant_event("node-2")])
        await opened.append([participant_event("node-3", suspended=True)])
        yield opened


@pytest.fixture
async def register(ledger: SqlLedger) -> Register:
    return Register(ledger.database, time.time)


@pytest.fixture
async def questions(
    ledger: SqlLedger, register: Register, redis_client: RedisClient, valkey: Valkey, nursery: trio.Nursery
) -> Questions:
    projector = projector_of(ledger, redis_client)
    asked = subscription_of(valkey.url)
    started = Questions(register, KnownNodes(ledger), projector, redis_client, asked, SEALER, jitter=lambda: 0.5)
    for service in (asked.run, projector.run, started.run):
        await nursery.start(service)
    return started


def ask(server: Valkey, asked: Question, *, key: bytes = MAC_KEY, under: str | None = None) -> None:
    server.call("SET", question_key(under or asked.node_id), seal_question(asked, key), "PX", 30_000)
    server.call("PUBLISH", ASKED, asked.node_id)


def answer_of(server: Valkey, instance: str) -> Answer | None:
    found = server.call("XREVRANGE", answers_key(instance), "+", "-", "COUNT", 1)
    return unseal_answer(found[0][1][b"a"], (MAC_KEY,)) if found else None


async def answer_to(server: Valkey, asked: Question) -> Answer:
    """Wait until the question is answered."""

    def answered() -> bool:
        answer = answer_of(server, asked.instance)
        return answer is not None and answer.nonce == asked.nonce

    await until(answered)
    answer = answer_of(server, asked.instance)
    assert answer is not None
    return answer


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another process
            await trio.sleep(0.005)


async def until_view(register: Register, holds: Callable[[View], bool]) -> View:
    with trio.fail_after(PATIENCE):
        while not holds(view := await register.view()):  # noqa: ASYNC110 - a table says it, no event
            await trio.sleep(0.01)
        return view


async def test_a_question_is_answered_with_the_ledgers_position(
    ledger: SqlLedger, questions: Questions, register: Register, valkey: Valkey
) -> None:
    await append_all(ledger, new_consents(10))
    head = (await ledger.head()).position
    asked = question()
    ask(valkey, asked)
    answer = await answer_to(valkey, asked)
    assert answer == Answer(asked.instance, asked.nonce, head.incarnation, head.seq)
    member = (await register.view()).members[asked.instance]
    assert (member.node_id, member.state) == ("node-1", Membership.IN)
    await until(lambda: questions.statistics().answered == 1)
    assert 0 < valkey.call("PTTL", answers_key(asked.instance)) <= 10_000


async def test_each_question_is_answered_once_and_anew(questions: Questions, valkey: Valkey) -> None:
    for _ in range(3):
        asked = question()
        ask(valkey, asked)
        await answer_to(valkey, asked)
    assert valkey.call("XLEN", answers_key("a" * 16)) == 1
    await until(lambda: questions.statistics().answered == 3)


async def test_a_question_that_was_read_while_it_was_being_answered_is_not_answered_again(
    questions: Questions, valkey: Valkey
) -> None:
    asked = question()
    ask(valkey, asked)
    await answer_to(valkey, asked)
    await until(lambda: questions.statistics().answered == 1)
    questions._hinted[asked.instance] = asked
    await questions.tick()
    assert questions.statistics().answered == 1


async def test_an_answer_never_says_more_than_the_stream_holds(
    ledger: SqlLedger, questions: Questions, valkey: Valkey
) -> None:
    """While somebody writes: at each answer the entries up to its position are in Redis already."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(append_all, ledger, new_consents(300))
        for _ in range(20):
            asked = question()
            ask(valkey, asked)
            answer = await answer_to(valkey, asked)
            assert int(valkey.call("GET", "{ccs}:head").split()[1]) >= answer.seq
    await until(lambda: questions.statistics().answered == 20)


@pytest.mark.parametrize("how", ["forged", "suspended", "unknown", "under another name"])
async def test_who_may_not_ask_is_not_answered(
    questions: Questions, register: Register, valkey: Valkey, how: str
) -> None:
    bad = question({"suspended": "node-3", "unknown": "node-9"}.get(how, "node-2"), instance="b" * 16)
    if how == "under another name":
        ask(valkey, bad, under="node-1")
    else:
        ask(valkey, bad, key=b"x" * 32 if how == "forged" else MAC_KEY)
    if how == "under another name":
        await until(lambda: questions.statistics().forged > 0)
    good = question("node-1", instance="c" * 16)
    ask(valkey, good)
    await answer_to(valkey, good)
    assert answer_of(valkey, bad.instance) is None
    assert set((await register.view()).members) == {good.instance}


async def test_a_node_that_is_ahead_of_the_ledger_is_not_answered(
    ledger: SqlLedger, questions: Questions, valkey: Valkey
) -> None:
    head = (await ledger.head()).position
    ask(valkey, question(incarnation=head.incarnation, applied=head.seq + 1, instance="b" * 16))
    other = question("node-2", instance="c" * 16)
    ask(valkey, other)
    await answer_to(valkey, other)
    assert answer_of(valkey, "b" * 16) is None
    await until(lambda: questions.statistics().answered == 1)


async def test_the_position_is_read_after_the_question_and_after_its_admission(
    ledger: SqlLedger, register: Register, redis_client: RedisClient, valkey: Valkey
) -> None:
    """The order of the proof, by what is done to the ledger in between: a commit after the question counts."""
    order: list[str] = []

    class Watched:
        async def execute(self, *command: Any) -> Any:
            order.append(str(command[0]))
            reply = await redis_client.execute(*command)
            if command[0] == "MGET":
                await ledger.append(new_consents(1))
            return reply

        async def execute_many(self, commands: Any) -> list[Any]:
            order.extend(str(command[0]) for command in commands)
            assert "a" * 16 in (await register.view()).members
            return await redis_client.execute_many(commands)

    asked = question()
    ask(valkey, asked)
    answerer = Questions(register, KnownNodes(ledger), None, Watched(), None, SEALER, jitter=lambda: 0.5)
    before = (await ledger.head()).position
    await answerer.tick()
    assert order == ["MGET", "XADD", "PEXPIRE"]
    answer = answer_of(valkey, asked.instance)
    assert answer is not None
    assert answer.position == Position(before.incarnation, before.seq + 1)


async def test_a_node_is_heard_while_others_are_being_answered(
    ledger: SqlLedger, register: Register, redis_client: RedisClient, valkey: Valkey, nursery: trio.Nursery
) -> None:
    """What it says was applied may be all that a revocation still waits for."""
    writing, go_on = trio.Event(), trio.Event()

    class Slow:
        async def execute(self, *command: Any) -> Any:
            return await redis_client.execute(*command)

        async def execute_many(self, commands: Any) -> list[Any]:
            writing.set()
            await go_on.wait()
            return await redis_client.execute_many(commands)

    asked = subscription_of(valkey.url)
    answerer = Questions(register, KnownNodes(ledger), None, Slow(), asked, SEALER, jitter=lambda: 0.5)
    await nursery.start(asked.run)
    await nursery.start(answerer.run)
    head = (await ledger.head()).position
    ask(valkey, question("node-1", instance="a" * 16))
    with trio.fail_after(PATIENCE):
        await writing.wait()
    other = question("node-2", instance="b" * 16, incarnation=head.incarnation, applied=head.seq)
    heard = Member(other.instance, "node-2", Membership.IN, 0.0, 0.0, 0)
    ask(valkey, other)
    await until(lambda: register.presence.has_applied(heard, head))
    assert answer_of(valkey, other.instance) is None
    go_on.set()
    await answer_to(valkey, other)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence and waiting in tenths of the real times; read at each use."""
    monkeypatch.setattr(presence_module, "SILENT_AFTER", Seconds(0.5))
    monkeypatch.setattr(presence_module, "WAIT_OUT", Seconds(0.2))


async def test_a_silent_instance_is_struck_off_and_forgotten(
    hasty: None, questions: Questions, register: Register, valkey: Valkey
) -> None:
    asked = question()
    ask(valkey, asked)
    await answer_to(valkey, asked)
    await until_view(register, lambda view: view.members[asked.instance].state is Membership.LEAVING)
    await until_view(register, lambda view: asked.instance not in view.members)
    again = question()  # the same instance, with a new nonce: it is alive after all
    ask(valkey, again)
    await answer_to(valkey, again)
    await until(lambda: (hasty, questions.statistics().answered) == (None, 2))


async def test_an_old_question_that_lies_in_redis_admits_nobody_anew(
    hasty: None, questions: Questions, register: Register, valkey: Valkey
) -> None:
    asked = question()
    ask(valkey, asked)
    await answer_to(valkey, asked)
    await until_view(register, lambda view: asked.instance not in view.members)
    ticks = questions.statistics().ticks
    await until(lambda: questions.statistics().ticks > ticks + 5)
    assert (hasty, valkey.call("EXISTS", question_key("node-1"))) == (None, 1)
    assert asked.instance not in (await register.view()).members


async def test_who_is_leaving_gets_no_answer(questions: Questions, register: Register, valkey: Valkey) -> None:
    first = question()
    ask(valkey, first)
    await answer_to(valkey, first)
    member = (await register.view()).members[first.instance]
    await register._write([member], [])
    ask(valkey, question())
    other = question("node-2", instance="c" * 16)
    ask(valkey, other)
    await answer_to(valkey, other)
    answer = answer_of(valkey, first.instance)
    assert answer is not None
    assert answer.nonce == first.nonce
    await until(lambda: questions.statistics().answered == 2)


async def test_silence_is_noticed_while_redis_is_away(
    hasty: None, ledger: SqlLedger, register: Register, doomed_valkey: Valkey, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    answerer = Questions(register, KnownNodes(ledger), None, client, None, SEALER, jitter=lambda: 0.5)
    asked = question()
    ask(doomed_valkey, asked)
    await nursery.start(answerer.run)
    await answer_to(doomed_valkey, asked)
    doomed_valkey.kill()
    await until_view(register, lambda view: asked.instance not in view.members)
    await until(lambda: (hasty, answerer.statistics().answered) == (None, 1))


async def test_a_new_node_is_heard_of(ledger: SqlLedger, questions: Questions, valkey: Valkey) -> None:
    await ledger.append([participant_event("node-7")])
    asked = question("node-7")
    ask(valkey, asked)
    assert (await answer_to(valkey, asked)).seq == (await ledger.head()).position.seq
    assert questions.statistics().members == 1
