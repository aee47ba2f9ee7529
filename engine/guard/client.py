"""Asks the service one question: several nodes, retries within their budget, a second node for a slow one.

The first `current` answer wins. An answer flagged `last_known` is taken only when no other node has a better one. A
question that no node answered is handed back with all its failures; what they mean is decided elsewhere
(`engine.guard.fallback`). Runs on trio and asyncio.

Hedging costs the hot path nothing but a dictionary entry: one task looks after all questions under way, and asks a
second node for those that take longer than most.
"""

import random
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import anyio
import anyio.abc
import msgspec

from engine.guard.addresses import Addresses, Pace
from engine.guard.calls import Call, CallFailed, Judge, Judged, Reply, Transport, Worth
from engine.guard.contacts import Contacts
from engine.guard.evidence_words import Attempt, Failure
from engine.guard.retry import TOTAL, WORST_CASE, RetryBudget, read_retry_after
from engine.guard.retrying import Retrying
from engine.guard.runs import Answered, Run, Unanswered
from engine.telemetry.guard_calls import ATTEMPTS_FAILED, CALLS, HEDGES, RETRIES, SECOND_OPINIONS

V = TypeVar("V")

# Seconds into an attempt. Patience is 50 ms at most: later it is we who were slow, and a node that is left no time to
# answer in must not count as one that failed.
_LATEST_HEDGE: Final = TOTAL / 2


class CallCounts(msgspec.Struct, frozen=True):
    """So far. failures: attempts by how they failed. second_opinions: of other nodes, where one said `last_known`."""

    calls: int
    retries: int
    hedges: int
    hedges_won: int
    failures: dict[Failure, int]
    second_opinions: int = 0


class _Hedge(Generic[V]):
    """A second node asked beside a slow one."""

    __slots__ = ("address", "done", "judged")

    def __init__(self, address: str) -> None:
        self.address = address
        self.done = anyio.Event()
        self.judged: Judged[V] | None = None


class _Flight(Generic[V]):
    """One attempt under way."""

    __slots__ = ("address", "begun", "call", "hedge", "judge", "run", "scope")

    def __init__(self, run: Run, address: str, call: Call, judge: Judge[V], begun: float) -> None:
        self.run = run
        self.address = address
        self.call = call
        self.judge = judge
        self.begun = begun
        self.scope: anyio.CancelScope | None = None
        self.hedge: _Hedge[V] | None = None

    @property
    def is_overtaken(self) -> bool:
        """Whether the hedge has brought what cuts this attempt short: by nothing less is it cut."""
        judged = None if self.hedge is None else self.hedge.judged
        return judged is not None and judged.worth is Worth.CURRENT


class Client:
    """Asks. now: monotonic seconds; wall: seconds since 1970, for the attempts' times. new_id: names of calls.

    is_open: whether no more calls are to be made. Use `run` in a task group of the caller's. Set `on_answer` to hear of
    answers, for as long as somebody waits for one, and `retrying.on_exhausted` of runs of retries that found nobody.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        transport: Transport,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        hedge: bool = True,
        draw: Callable[[], float] = random.random,
        new_id: Callable[[], bytes],
        is_open: Callable[[], bool] = lambda: False,
    ) -> None:
        self.addresses = Addresses(addresses)
        self.contacts = Contacts(addresses)
        self._transport = transport
        self._now = now
        self._wall = wall
        self._hedges = hedge and len(addresses) > 1
        self._new_id = new_id
        self.on_answer: Callable[[], None] | None = None
        self._budget = RetryBudget()
        self.retrying = Retrying(
            self,
            self.addresses,
            self._budget,
            now=now,
            draw=draw,
            is_open=is_open,
            is_waited_for=lambda: self.on_answer is not None,
        )
        self._pace = Pace()
        self._flights: dict[int, _Flight[object]] = {}
        self._wake: anyio.Event | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._calls = self._retries = self._hedged = self._hedges_won = self._second_opinions = 0
        self._failures: dict[Failure, int] = dict.fromkeys(Failure, 0)

    def counts(self) -> CallCounts:
        """A frozen record of now."""
        failures = dict(self._failures)
        return CallCounts(self._calls, self._retries, self._hedged, self._hedges_won, failures, self._second_opinions)

    async def ask(self, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """One question. judge: reads a reply of status 200. Takes 9.4 seconds at most, 429s apart.

        Two more where the last attempt brought an answer flagged `last_known`, and another node may have a better one.
        """
        now = self._now()
        self._calls += 1
        CALLS.inc()
        self._budget.note_call(now)
        order = self.addresses.first(now)
        run = Run(now)
        first = await self._attempt(run, order[0], call, judge)
        answer = await self.retrying.go_on(run, call, judge) if first is None else first
        if isinstance(answer, Answered) and answer.worth is Worth.LAST_KNOWN:
            return await self._look_for_better(run, answer, call, judge)
        return answer

    def take_retry(self) -> bool:
        """Reserve a retry for `ask_again`; False: the budget has none."""
        return self._budget.take(self._now(), 1)

    async def ask_again(self, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """One attempt at the best node, for questions that were asked before."""
        now = self._now()
        self._count_retry()
        run = Run(now)
        answer = await self._attempt(run, self.addresses.order(now)[0], call, judge, hedged=False)
        if answer is None:
            return self.unanswered(run, now, exhausted=run.is_over())
        if answer.worth is Worth.LAST_KNOWN:
            return await self._look_for_better(run, answer, call, judge)
        return answer

    async def probe(self, call: Call, judge: Judge[V]) -> bool:
        """One attempt at one node, to see whether the service is there again."""
        self._calls += 1
        order = self.addresses.order(self._now())
        return await self._attempt(Run(), order[0], call, judge, hedged=False) is not None

    async def run(self) -> None:
        """Look after slow questions, for ever. Without it none is hedged."""
        async with anyio.create_task_group() as self._group:
            self.retrying.group = self._group
            while True:
                if not self._flights:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                    continue
                key, flight = next(iter(self._flights.items()))
                early = flight.begun + self._pace.patience - self._now()
                if early > 0:
                    await anyio.sleep(early)
                elif self._flights.pop(key, None) is not None:
                    self._begin_hedge(flight)

    async def attempt_again(self, run: Run, address: str, call: Call, judge: Judge[V]) -> Answered[V] | None:
        """See `engine.guard.retrying.Asker`."""
        self._count_retry()
        return await self._attempt(run, address, self._anew(call), judge)

    def _count_retry(self) -> None:
        self._retries += 1
        RETRIES.inc()

    async def _look_for_better(self, run: Run, answer: Answered[V], call: Call, judge: Judge[V]) -> Answered[V]:
        """Ask the other nodes, once each, before a `last_known` answer is taken: one, and more while there is time."""
        until = max(self._now(), run.began + WORST_CASE - TOTAL)
        for address in self.addresses.better(self._now(), run.asked):
            if self._now() > until:
                break
            self._second_opinions += 1
            SECOND_OPINIONS.inc()
            other = await self._attempt(run, address, self._anew(call), judge, hedged=False)
            if other is not None and other.worth is Worth.CURRENT:
                return other
        return answer

    async def _attempt(
        self, run: Run, address: str, call: Call, judge: Judge[V], *, hedged: bool = True
    ) -> Answered[V] | None:
        """One attempt, and its hedge if it is slow. None: it failed, as `run` then says."""
        begun = self._now()
        run.asks(address)
        flight = _Flight(run, address, call, judge, begun)
        if hedged and self._hedges:
            self._take_off(flight)
        try:
            judged = await self._one(run, address, call, judge, begun, flight)
        finally:
            self._flights.pop(id(flight), None)
        hedge = flight.hedge
        if hedge is None or (judged is not None and judged.worth is Worth.CURRENT):
            return None if judged is None else Answered(judged.value, judged.worth, address, tuple(run.failures))
        await hedge.done.wait()  # bounded: a hedge has the deadline of its attempt
        if hedge.judged is not None and (judged is None or hedge.judged.worth is Worth.CURRENT):
            self._hedges_won += 1
            return Answered(hedge.judged.value, hedge.judged.worth, hedge.address, tuple(run.failures))
        return None if judged is None else Answered(judged.value, judged.worth, address, tuple(run.failures))

    async def _one(
        self,
        run: Run,
        address: str,
        call: Call,
        judge: Judge[V],
        begun: float,
        flight: _Flight[V] | None,
        within: float = TOTAL,
    ) -> Judged[V] | None:
        """One call and what it says; notes what there is to note of the node. within: seconds."""
        reply: Reply | None = None
        with anyio.CancelScope(deadline=anyio.current_time() + within) as scope:
            if flight is not None:
                flight.scope = scope
            try:
                reply = await self._transport.call(address, call)
            except CallFailed as fault:
                self._failed(run, address, begun, fault.failure)
        if reply is not None:  # reading is not bounded by the deadline: what is no answer must not pass for a timeout
            return await self._read(run, address, call, judge, begun, reply)
        if scope.cancelled_caught:
            if flight is not None and flight.is_overtaken:
                self.addresses.was_slow(address, self._now())  # cut short, because the other node has answered
            else:
                self._failed(run, address, begun, Failure.TIMEOUT)
        return None

    async def _read(
        self, run: Run, address: str, call: Call, judge: Judge[V], begun: float, reply: Reply
    ) -> Judged[V] | None:
        if reply.status != 200:
            failure = _failure_of(reply.status, call)
            if failure is Failure.TOO_MANY:
                run.slow_down(address, read_retry_after(reply.retry_after))
            self._failed(run, address, begun, failure, reply.status)
            return None
        # A node repeats what a call was named: an answer without that belongs to another question.
        judged = await judge(reply) if reply.request_id == call.request_id else None
        if judged is None:
            self._failed(run, address, begun, Failure.NO_ANSWER, reply.status)
            return None
        now = self._now()
        self._pace.note(now - begun)
        self.addresses.answered(address, now, current=judged.worth is Worth.CURRENT)
        self.contacts.answered(address, self._wall(), judged.freshness, judged.as_of)
        if self.on_answer is not None:
            self.on_answer()
        return judged

    def _failed(self, run: Run, address: str, begun: float, failure: Failure, status: int = 0) -> None:
        took = self._now() - begun
        run.failures.append(Attempt(address, self._wall() - took, took, failure, status))
        self.addresses.failed(address, self._now(), failure)
        self.contacts.failed(address, self._wall(), failure)
        self._failures[failure] += 1
        ATTEMPTS_FAILED.labels(failure).inc()

    def unanswered(self, run: Run, since: float, *, exhausted: bool) -> Unanswered:
        """See `engine.guard.retrying.Asker`."""
        failing = self.addresses.failing(self._now(), since)
        return Unanswered(tuple(run.failures), exhausted, failing, run.longest, run.began)

    def _anew(self, call: Call) -> Call:
        """The same question under another name, so that a late answer to the first is not taken for its own."""
        return msgspec.structs.replace(call, request_id=self._new_id())

    def _take_off(self, flight: _Flight[V]) -> None:
        self._flights[id(flight)] = flight  # type: ignore[assignment] # flights of all kinds of answers
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def _begin_hedge(self, flight: _Flight[V]) -> None:
        now = self._now()
        others = self.addresses.better(now, (flight.address,))
        if now - flight.begun > _LATEST_HEDGE or self._group is None or not others or not self._budget.take_hedge(now):
            return
        self._hedged += 1
        HEDGES.inc()
        flight.hedge = _Hedge(others[0])
        flight.run.asks(others[0])
        self._group.start_soon(self._fly_beside, flight, flight.hedge)

    async def _fly_beside(self, flight: _Flight[V], hedge: _Hedge[V]) -> None:
        try:
            begun = self._now()
            call = self._anew(flight.call)
            left = flight.begun + TOTAL - begun  # it ends with the attempt, or a share could take more than 9.4 seconds
            hedge.judged = await self._one(flight.run, hedge.address, call, flight.judge, begun, None, left)
            if flight.is_overtaken and flight.scope is not None:
                flight.scope.cancel()
        finally:
            hedge.done.set()


def _failure_of(status: int, call: Call) -> Failure:
    """How a reply that is no 200 counts."""
    if status == 501 and call.is_optional:
        return Failure.REFUSED
    if status == 429:
        return Failure.TOO_MANY
    if 500 <= status <= 599:
        return Failure.SERVER
    return Failure.REFUSED if 300 <= status <= 499 else Failure.NO_ANSWER
