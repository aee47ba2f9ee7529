"""EDPs that ask, a hundred times a second: kept connections, two seconds of patience, one try at another node.

Questions come in an open loop: who waits for an answer holds up nobody else, as it is with callers who know nothing
of each other. Every answer goes to the judge. A part of the questions of EDPs that have a guard is asked both ways at
once, so that what each way gives can be compared share by share; so is every check of consents that stand for long,
half of which come to the guard as batches. Nodes are asked about each share by itself.
"""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from random import Random
from typing import Any
from urllib.parse import quote

import trio

from tests.chaos import doors
from tests.chaos.calls import BrokenOff, Caller, NoConnection, Reply
from tests.chaos.guarding import Guarding
from tests.chaos.judge import LAST_KNOWN, Answer, Judge
from tests.chaos.knowledge import Knowledge, Question, Token
from tests.chaos.settings import EDPS, Edp
from tests.chaos.signed import SignedAnswers
from tests.chaos.standing import Standing
from tests.chaos.system import System
from tests.chaos.tally import ANSWERED, Asked, Outcome

PATIENCE = 2.0  # seconds for one node, connecting included
MOST_WAITING = 1_500  # questions at once; beyond, this process could not keep up and would measure itself
BESIDE = 0.35  # share of such questions that the guard is asked too: it, and what it asks, run on the same machine
BATCHED = 0.5  # share of the checks of lasting consents that come in batches
BATCH = 20  # shares in one
MOST_LATE = 0.25  # seconds behind its time that a question is still asked
FORM = ("Content-Type", "application/x-www-form-urlencoded")


class Load:
    """All EDPs. rate: questions a second about consents that come and go; checks: about those that last."""

    def __init__(
        self,
        system: System,
        knowledge: Knowledge,
        standing: Standing,
        judge: Judge,
        guarding: Guarding,
        random: Random,
        rate: float,
        checks: float,
    ) -> None:
        self._standing, self._checks = standing, checks
        self._system, self._knowledge, self._judge, self._random = system, knowledge, judge, random
        self._guarding, self._rate = guarding, rate
        self._edps = {edp.client_id: edp for edp in EDPS}
        self._contexts = {edp.client_id: system.context(edp.client_id) for edp in EDPS}
        self._idle: dict[tuple[str, str], list[Caller]] = {}
        self.asked: list[Asked] = []
        self.waiting = 0
        self.not_asked = 0  # this process could not keep up
        self.signed = SignedAnswers(system.issuer)
        self.latencies: list[float] = []

    async def run(self, seconds: float) -> None:
        """Ask for so long."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_of_passing, nursery, began, seconds)
            nursery.start_soon(self._ask_of_lasting, nursery, began, seconds)

    async def introspect_all(self) -> None:
        """Every guard about every lasting consent, as in the hours before the run; not counted."""
        for _ in range(0, len(self._standing.held), BATCH):
            await self._guarding.ask_many(self._standing.next(BATCH, time.time()))

    async def _ask_of_passing(self, nursery: trio.Nursery, began: float, seconds: float) -> None:
        async with aclosing(self._times(began, seconds, self._rate)) as times:
            async for now in times:
                question = self._knowledge.next(time.time())
                if question is not None and self._can_ask(now, 1):
                    nursery.start_soon(self._ask, question, trio.current_time() - began)

    async def _ask_of_lasting(self, nursery: trio.Nursery, began: float, seconds: float) -> None:
        """One call to a guard at a time of its own: a batch counts as so many checks."""
        single, batches = self._checks * (1 - BATCHED), self._checks * BATCHED / BATCH
        async with aclosing(self._times(began, seconds, single + batches)) as times:
            async for now in times:
                count = 1 if self._random.random() < single / (single + batches) else BATCH
                tokens = self._standing.next(count, time.time())
                if tokens and self._can_ask(now, len(tokens)):
                    nursery.start_soon(self._ask_beside, tokens, trio.current_time() - began)

    async def _times(self, began: float, seconds: float, rate: float) -> AsyncGenerator[float, None]:
        """When to ask, whoever waits for answers."""
        due = began + self._random.expovariate(rate)
        while due < began + seconds:
            await trio.sleep_until(due)
            yield due
            due += self._random.expovariate(rate)

    def _can_ask(self, due: float, count: int) -> bool:
        if self.waiting < MOST_WAITING and trio.current_time() <= due + MOST_LATE:
            return True
        self.not_asked += count
        return False

    async def ask_one(self, token: Token, node: str) -> tuple[Outcome, Answer | None]:
        """One question to one node; judged."""
        outcome, answer = await self._at(self._edps[token.edp], token, node)
        if answer is not None:
            self._judge.judge(token.consent, answer)
        return outcome, answer

    async def close(self) -> None:
        """End every connection."""
        for callers in self._idle.values():
            while callers:
                await callers.pop().abandon()

    async def _ask(self, question: Question, at: float) -> None:
        self.waiting += 1
        try:
            token = question.token
            if not self._guarding.has(token.edp) or self._random.random() > BESIDE:
                await self._ask_nodes(question, at)
                return
            answers: list[Answer | None] = []

            async def beside() -> None:
                answers.extend(await self._ask_nodes(question, at))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(beside)
                found = await self._guarding.ask(token)
            self._guarding.note(token, at, (answers[0], answers[1]), found)
        finally:
            self.waiting -= 1

    async def _ask_beside(self, tokens: Sequence[Token], at: float) -> None:
        """A guard about all of them, and nodes about each of them meanwhile."""
        answers: dict[int, tuple[Answer | None, Answer | None]] = {}

        async def beside(place: int) -> None:
            answers[place] = await self._ask_nodes(Question(tokens[place]), at)

        self.waiting += len(tokens)
        try:
            async with trio.open_nursery() as nursery:
                for place in range(len(tokens)):
                    nursery.start_soon(beside, place)
                if len(tokens) == 1:
                    found = [await self._guarding.ask(tokens[0])]
                else:
                    found = await self._guarding.ask_many(tokens)
            for place, token in enumerate(tokens):
                self._guarding.note(token, at, answers[place], found[place], lasting=True)
        finally:
            self.waiting -= len(tokens)

    async def _ask_nodes(self, question: Question, at: float) -> tuple[Answer | None, Answer | None]:
        """What the first node answered, and the last one asked."""
        token, edp = question.token, self._edps[question.token.edp]
        nodes = self._system.nodes
        node = question.node or self._random.choice(nodes)
        first, answer = await self.ask_one(token, node)
        second, last = None, answer
        if first not in ANSWERED:
            other = self._random.choice([one for one in nodes if one != node])
            second, last = await self.ask_one(token, other)
        self.asked.append(Asked(at, edp.handles_last_known, node, first, second))
        return answer, last

    async def _at(self, edp: Edp, token: Token, node: str) -> tuple[Outcome, Answer | None]:
        began = trio.current_time()
        with trio.move_on_after(PATIENCE):
            try:
                sent_wall, sent, reply = await self._exchange(edp.client_id, token.token, node)
            except NoConnection:
                return Outcome.UNREACHABLE, None
            except BrokenOff:
                return Outcome.BROKEN, None
            self.latencies.append(trio.current_time() - began)
            if reply.body == doors.BODY:  # no node has said that: there is nothing to judge
                return Outcome.TOO_MANY if reply.status == 429 else Outcome.UNAVAILABLE, None
            answer = self._read(edp, token, node, sent, sent_wall, reply)
            return _outcome(answer), answer
        return Outcome.SILENT, None

    async def _exchange(self, edp: str, token: str, node: str) -> tuple[float, float, Reply]:
        """A kept connection that has ended without a byte of an answer is no fault: the next one is taken."""
        idle = self._idle.setdefault((edp, node), [])
        while True:
            caller = idle.pop() if idle else await self._reach(edp, node)
            was_used = caller.used
            sent_wall, sent = time.time(), trio.current_time()
            try:
                reply = await caller.call("POST", "/introspect", b"token=" + quote(token).encode(), FORM)
            except BrokenOff as broken:
                await caller.abandon()
                if was_used and broken.unheard:
                    continue
                raise
            except BaseException:
                await caller.abandon()
                raise
            if reply.closing:
                await caller.abandon()
            else:
                idle.append(caller)
            return sent_wall, sent, reply

    async def _reach(self, edp: str, node: str) -> Caller:
        return await Caller.reach(self._system.introspection_port(node), self._contexts[edp])

    def _read(self, edp: Edp, token: Token, node: str, sent: float, sent_wall: float, reply: Reply) -> Answer:
        body: dict[str, Any] = {}
        if reply.status == 200:
            raw = reply.body.decode()
            is_signed = edp.answers == "signed"
            body = self.signed.open(raw, edp.client_id, token.token) if is_signed else json.loads(raw)
        return Answer(
            node=node,
            edp=edp.client_id,
            handles_last_known=edp.handles_last_known,
            token_expires_at=token.expires_at,
            sent=sent,
            received=trio.current_time(),
            sent_wall=sent_wall,
            received_wall=time.time(),
            status=reply.status,
            active=body.get("active", False),
            state=body.get("ccs_freshness", ""),
            as_of=body.get("ccs_as_of", 0.0),
            until=body.get("ccs_last_known_until", 0.0),
        )


def _outcome(answer: Answer) -> Outcome:
    if answer.status == 503:
        return Outcome.UNAVAILABLE
    if answer.status != 200:
        return Outcome.OTHER
    if not answer.active:
        return Outcome.INACTIVE
    return Outcome.LAST_KNOWN if answer.state == LAST_KNOWN else Outcome.CURRENT
