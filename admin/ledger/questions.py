"""Answers the nodes' questions that come by way of Redis, at least every TICK and at once when one is asked.

The order is the proof's (architecture: freshness): the questions are read FIRST; THEN their askers are admitted
in the ledger's database, and those that fell silent struck off; THEN the ledger's position is read; THEN missing
entries are appended; THEN the answers are written. A position that carries a question's nonce was therefore read
after that question had been asked, and an instance that a barrier did not find has a position that includes it.

A question that is hinted at is read at once, also while others are being answered: what it says was applied may be all
that a barrier still waits for. It is answered by the round that begins next. Hints may be lost or false, so all
questions are read every TICK besides.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from admin.ledger.instances import View
from admin.ledger.nodes import KnownNodes
from admin.ledger.projector import Projector, ProjectorState
from admin.ledger.register import Register
from admin.ledger.sealing import Sealer
from engine.backoff import Backoff
from engine.clock import Seconds
from engine.errors import Fault
from engine.feed.questions import Answer, Question
from engine.feed.redis_client import Subscription
from engine.feed.redis_commands import Executor, mget, raise_first_fault
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_link import Arg
from engine.feed.redis_names import (
    ANSWER_FIELD,
    ANSWERS_LENGTH,
    ANSWERS_LIFE_MS,
    answers_key,
    question_key,
)
from engine.telemetry.logs import logger

TICK: Final = Seconds(0.1)
APPEND_PATIENCE: Final = Seconds(0.1)  # an answer is true before its entries are in Redis, only not yet of use
RETRY: Final = Backoff(first=Seconds(0.05), limit=Seconds(0.5))

_log = logger("admin.questions")


class QuestionsStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page."""

    ticks: int
    answered: int
    forged: int  # questions that no key of ours has sealed, or under another node's name
    members: int  # instances in the table when last read
    last_fault: str


class Questions:
    """One answerer. Several may work at once.

    redis, asked: None = there is no Redis; then only the striking off is left to do.
    """

    def __init__(
        self,
        register: Register,
        nodes: KnownNodes,
        projector: Projector | None,
        redis: Executor | None,
        asked: Subscription | None,
        sealer: Sealer,
        *,
        jitter: Callable[[], float],
    ) -> None:
        self._register = register
        self._nodes = nodes
        self._projector = projector
        self._redis = redis
        self._asked = asked
        self._sealer = sealer
        self._jitter = jitter
        self._wake = trio.Event()
        self._hinted: dict[str, Question] = {}  # by instance: read since the last round began
        self._read_all_at = -math.inf  # when all questions are read again, hinted at or not
        self._answered: dict[str, str] = {}  # instance -> nonce of the question that was answered last
        self._ticks = self._answers = self._forged = self._members = self._failures = 0
        self._last_fault = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled. Ready after the first tick, also when that failed."""
        async with trio.open_nursery() as nursery:
            if self._asked is not None:
                nursery.start_soon(self._listen, self._asked)
            if self._projector is not None:
                nursery.start_soon(self._watch_participants, self._projector)
            await self._try_tick()
            task_status.started()
            while True:
                with trio.move_on_after(TICK):
                    await self._wake.wait()
                self._wake = trio.Event()
                await self._try_tick()

    def statistics(self) -> QuestionsStatistics:
        """A snapshot."""
        return QuestionsStatistics(self._ticks, self._answers, self._forged, self._members, self._last_fault)

    async def tick(self) -> None:
        """One round, in the order above. Raises RedisFault and the ledger's faults."""
        questions, lost = await self._read_questions()
        view = await self._register.admit(questions)
        self._members = len(view.members)
        await self._register.strike_off(view)
        if lost is not None:
            raise lost
        await self._answer(view, questions)
        self._ticks += 1

    async def _try_tick(self) -> None:
        try:
            await self.tick()
            self._failures = 0
        except Fault as fault:
            self._failures += 1
            if fault.text != self._last_fault or self._failures == 1:
                _log.warning("questions_unanswered", text=fault.text, detail=fault.detail)
            self._last_fault = fault.text
            await trio.sleep(RETRY.delay(self._failures, self._jitter()))

    async def _read_questions(self) -> tuple[list[Question], RedisFault | None]:
        """The questions of this round; a lost Redis must not keep silent instances in the table."""
        hinted = {instance: one for instance, one in self._hinted.items() if not self._is_answered(one)}
        self._hinted = {}  # one may have been read while the round before was answering it
        if trio.current_time() < self._read_all_at:
            return list(hinted.values()), None
        try:
            standing = await self._read(sorted(await self._nodes.ids()))
        except RedisFault as fault:
            return list(hinted.values()), fault
        if self._asked is not None:
            self._read_all_at = trio.current_time() + TICK
        return list((hinted | {question.instance: question for question in standing}).values()), None

    async def _read(self, ids: Sequence[str]) -> list[Question]:
        """The questions of these nodes that stand in Redis and are not answered yet. Raises RedisFault."""
        if self._redis is None or not ids:
            return []
        found = await mget(self._redis, [question_key(node_id) for node_id in ids])
        questions = [q for node_id, sealed in zip(ids, found, strict=True) if (q := self._unseal(node_id, sealed))]
        return [question for question in questions if self._is_new(question)]

    def _unseal(self, node_id: str, sealed: bytes | None) -> Question | None:
        if sealed is None:
            return None
        question = self._sealer.question(sealed)
        if question is None or question.node_id != node_id:
            self._forged += 1
            return None
        return question

    def _is_new(self, question: Question) -> bool:
        """What was answered is heard no more: the last question of a node that died admits it to nothing."""
        if self._is_answered(question):
            return False
        self._register.hear(question)
        return True

    def _is_answered(self, question: Question) -> bool:
        return self._answered.get(question.instance) == question.nonce

    async def _answer(self, view: View, questions: Sequence[Question]) -> None:
        admitted = [question for question in questions if view.admits(question) and not self._is_ahead(question, view)]
        if self._redis is None or not admitted:
            return
        if self._projector is not None:
            if self._projector.state is ProjectorState.LEDGER_BEHIND:
                return
            await self._projector.wait_reached(view.position, patience=APPEND_PATIENCE)
        raise_first_fault(await self._redis.execute_many([c for q in admitted for c in self._commands(q, view)]))
        self._remember(admitted)

    def _is_ahead(self, question: Question, view: View) -> bool:
        """Whether the asker has applied what the ledger does not have: then the ledger is not what it was."""
        ahead = view.applied(question) > view.position.seq
        if ahead:
            _log.error("node_ahead_of_ledger", node=question.node_id)
        return ahead

    def _commands(self, question: Question, view: View) -> list[list[Arg]]:
        position, key = view.position, answers_key(question.instance)
        answer = Answer(question.instance, question.nonce, position.incarnation, position.seq)
        sealed = self._sealer.answer(answer)
        return [
            ["XADD", key, "MAXLEN", ANSWERS_LENGTH, "*", ANSWER_FIELD, sealed],
            ["PEXPIRE", key, ANSWERS_LIFE_MS],
        ]

    def _remember(self, answered: Sequence[Question]) -> None:
        self._answers += len(answered)
        for question in answered:
            self._answered.pop(question.instance, None)
            self._answered[question.instance] = question.nonce
        while len(self._answered) > 10_000:  # instances are drawn at each start: the oldest are long gone
            del self._answered[next(iter(self._answered))]

    async def _listen(self, asked: Subscription) -> None:
        while True:
            hints = await asked.next_hints()
            try:
                await self._take(hints)
            except Fault:  # the next round meets it too, and says so
                self._read_all_at = -math.inf
            self._wake.set()

    async def _take(self, hints: set[bytes]) -> None:
        """Read what is hinted at. Raises RedisFault and the ledger's faults."""
        if b"" in hints:  # a new link: whatever was hinted at before it is lost
            self._read_all_at = -math.inf
        named = [node_id for node_id in await self._nodes.ids() if node_id.encode() in hints]
        for question in await self._read(named):
            self._hinted[question.instance] = question

    async def _watch_participants(self, projector: Projector) -> None:
        while True:
            await projector.participants_changed.wait()
            self._nodes.forget()
