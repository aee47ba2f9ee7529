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

from engine.clock import Seconds
from engine.guard.addresses import Addresses, Pace
from engine.guard.calls import Call, CallFailed, Judge, Judged, Reply, Transport, Worth
from engine.guard.contacts import Contacts
from engine.guard.evidence_words import Attempt, Failure
from engine.guard.retry import (
    ATTEMPTS,
    NOT_SAID,
    TOTAL,
    RetryBudget,
    is_retried,
    read_retry_after,
    wait_before,
)
from engine.telemetry.guard_calls import ATTEMPTS_FAILED, CALLS, HEDGES, RETRIES

V = TypeVar("V")

_RETRIES: Final = ATTEMPTS - 1


class Answered(msgspec.Struct, Generic[V], frozen=True):
    """A node answered. address: which. failures: the attempts before."""

    value: V
    worth: Worth
    address: str
    failures: tuple[Attempt, ...] = ()


class Unanswered(msgspec.Struct, frozen=True):
    """No node answered. exhausted: all attempts were made. failing: each node's newest failure (`verdict_on_run`).

    retry_after: the longest that a node asked for with 429, seconds. began: when it was asked first, by the client's
    clock. is_out_of_retries: the budget had none left, and what others find out may be waited for.
    """

    failures: tuple[Attempt, ...]
    exhausted: bool
    failing: dict[str, Failure | None]
    retry_after: Seconds = NOT_SAID
    began: float = 0.0
    is_out_of_retries: bool = False

    @property
    def kinds(self) -> list[Failure]:
        """How the attempts failed."""
        return [attempt.failure for attempt in self.failures]

    @property
    def status(self) -> int:
        """Of the last HTTP answer; 0: none."""
        return next((attempt.status for attempt in reversed(self.failures) if attempt.status), 0)


class CallCounts(msgspec.Struct, frozen=True):
    """So far. failures: attempts by how they failed."""

    calls: int
    retries: int
    hedges: int
    hedges_won: int
    failures: dict[Failure, int]


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

    def __init__(self, run: "_Run", address: str, call: Call, judge: Judge[V], begun: float) -> None:
        self.run = run
        self.address = address
        self.call = call
        self.judge = judge
        self.begun = begun
        self.scope: anyio.CancelScope | None = None
        self.hedge: _Hedge[V] | None = None


class _Lead(Generic[V]):
    """A question's retries, in a task of their own: others may wait for them when whoever asked is gone."""

    __slots__ = ("done", "error", "result", "scope")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()
        self.result: Answered[V] | Unanswered | None = None
        self.error: Exception | None = None


class _Run:
    """What has come of a question so far. began: when it was asked first."""

    __slots__ = ("asked", "began", "failures", "longest", "retry_after")

    def __init__(self, began: float = 0.0) -> None:
        self.began = began
        self.asked: dict[str, int] = {}  # address -> place of its newest attempt
        self.failures: list[Attempt] = []
        self.retry_after: dict[str, Seconds] = {}  # of nodes that said 429 and have not been waited for
        self.longest = NOT_SAID

    def slow_down(self, address: str, wait: Seconds) -> None:
        self.retry_after[address] = wait
        self.longest = max(self.longest, wait)

    def is_over(self) -> bool:
        """Whether the last attempt failed so that no other is made."""
        return bool(self.failures) and not is_retried(self.failures[-1].failure)


class Client:
    """Asks. now: monotonic seconds; wall: seconds since 1970, for the attempts' times. new_id: names of calls.

    is_open: whether no more calls are to be made. Use `run` in a task group of the caller's. Set `on_exhausted` to hear
    of runs of retries that ended without an answer, and `on_answer`, for as long as somebody waits for it, of answers.
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
        self._draw = draw
        self._new_id = new_id
        self._is_open = is_open
        self.on_exhausted: Callable[[Unanswered], None] = lambda _: None
        self.on_answer: Callable[[], None] | None = None
        self._budget = RetryBudget()
        self._pace = Pace()
        self._flights: dict[int, _Flight[object]] = {}
        self._wake: anyio.Event | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._calls = self._retries = self._hedged = self._hedges_won = 0
        self._failures: dict[Failure, int] = dict.fromkeys(Failure, 0)

    def counts(self) -> CallCounts:
        """A frozen record of now."""
        return CallCounts(self._calls, self._retries, self._hedged, self._hedges_won, dict(self._failures))

    async def ask(self, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """One question. judge: reads a reply of status 200. Takes 9.4 seconds at most, 429s apart."""
        now = self._now()
        self._calls += 1
        CALLS.inc()
        self._budget.note_call(now)
        order = self.addresses.first(now)
        run = _Run(now)
        first = await self._attempt(run, order[0], call, judge)
        answer = await self._retry(run, call, judge) if first is None else first
        if isinstance(answer, Answered) and answer.worth is Worth.LAST_KNOWN:
            return await self._look_for_better(run, answer, call, judge)
        return answer

    def take_retry(self) -> bool:
        """Reserve a retry for `ask_again`; False: the budget has none."""
        return self._budget.take(self._now(), 1)

    async def ask_again(self, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """One attempt at the best node, for questions that were asked before."""
        now = self._now()
        self._retries += 1
        RETRIES.inc()
        run = _Run(now)
        answer = await self._attempt(run, self.addresses.order(now)[0], call, judge, hedged=False)
        if answer is None:
            return self._unanswered(run, now, exhausted=run.is_over())
        if answer.worth is Worth.LAST_KNOWN:
            return await self._look_for_better(run, answer, call, judge)
        return answer

    async def probe(self, call: Call, judge: Judge[V]) -> bool:
        """One attempt at one node, to see whether the service is there again."""
        self._calls += 1
        order = self.addresses.order(self._now())
        return await self._attempt(_Run(), order[0], call, judge, hedged=False) is not None

    async def run(self) -> None:
        """Look after slow questions, for ever. Without it none is hedged."""
        async with anyio.create_task_group() as self._group:
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

    async def _retry(self, run: _Run, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """After a first attempt that failed."""
        since = self._now()
        if run.is_over() or self._is_open():
            return self._unanswered(run, since, exhausted=run.is_over())
        if not self._budget.take(since, _RETRIES):
            missed = self._unanswered(run, since, exhausted=False)
            return msgspec.structs.replace(missed, is_out_of_retries=True)
        if self._group is None:
            return await self._lead(run, call, judge, since)
        return await self._follow(self._group, run, call, judge, since)

    async def _follow(
        self, group: anyio.abc.TaskGroup, run: _Run, call: Call, judge: Judge[V], since: float
    ) -> Answered[V] | Unanswered:
        """Retries that go on without whoever asked as long as others wait for what they find out."""
        lead = _Lead[V]()

        async def fly() -> None:
            try:
                with lead.scope:
                    lead.result = await self._lead(run, call, judge, since)
            except Exception as error:  # it is the asker's, and raised there
                lead.error = error
            finally:
                lead.done.set()

        group.start_soon(fly)
        try:
            await lead.done.wait()
        finally:
            if self.on_answer is None:
                lead.scope.cancel()
        if lead.error is not None:
            raise lead.error
        return lead.result or self._unanswered(run, since, exhausted=False)

    async def _lead(self, run: _Run, call: Call, judge: Judge[V], since: float) -> Answered[V] | Unanswered:
        """Three retries, which are in the budget. Whoever is to hear of their failure has when this returns."""
        result = await self._run_retries(run, call, judge, since)
        if isinstance(result, Unanswered) and result.exhausted:
            self.on_exhausted(result)
        return result

    async def _run_retries(self, run: _Run, call: Call, judge: Judge[V], since: float) -> Answered[V] | Unanswered:
        made = 0
        try:
            for attempt in range(2, ATTEMPTS + 1):
                address = self._next_address(run)
                await anyio.sleep(wait_before(attempt, self._draw(), run.retry_after.pop(address, NOT_SAID)))
                if self._is_open():  # others have found out meanwhile
                    return self._unanswered(run, since, exhausted=False)
                made += 1
                self._retries += 1
                RETRIES.inc()
                answer = await self._attempt(run, address, self._anew(call), judge)
                if answer is not None:
                    return answer
                if run.is_over():
                    break
        finally:
            self._budget.give_back(_RETRIES - made)
        return self._unanswered(run, since, exhausted=True)

    def _next_address(self, run: _Run) -> str:
        """One that has not been asked in this run, the best first; else the one that was asked longest ago.

        Where others are left, not one that has told us to slow down.
        """
        order = self.addresses.order(self._now())
        return min(order, key=lambda address: (address in run.retry_after, run.asked.get(address, -1)))

    async def _look_for_better(self, run: _Run, answer: Answered[V], call: Call, judge: Judge[V]) -> Answered[V]:
        """Ask the other nodes, once each, before a `last_known` answer is taken."""
        for address in self.addresses.better(self._now(), run.asked):
            other = await self._attempt(run, address, self._anew(call), judge, hedged=False)
            if other is not None and other.worth is Worth.CURRENT:
                return other
        return answer

    async def _attempt(
        self, run: _Run, address: str, call: Call, judge: Judge[V], *, hedged: bool = True
    ) -> Answered[V] | None:
        """One attempt, and its hedge if it is slow. None: it failed, as `run` then says."""
        begun = self._now()
        run.asked[address] = len(run.asked) + len(run.failures)
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
        await hedge.done.wait()  # bounded: a hedge has its own deadline
        if hedge.judged is not None and (judged is None or hedge.judged.worth is Worth.CURRENT):
            self._hedges_won += 1
            return Answered(hedge.judged.value, hedge.judged.worth, hedge.address, tuple(run.failures))
        return None if judged is None else Answered(judged.value, judged.worth, address, tuple(run.failures))

    async def _one(
        self, run: _Run, address: str, call: Call, judge: Judge[V], begun: float, flight: _Flight[V] | None
    ) -> Judged[V] | None:
        """One call and what it says; notes what there is to note of the node."""
        reply: Reply | None = None
        with anyio.CancelScope(deadline=anyio.current_time() + TOTAL) as scope:
            if flight is not None:
                flight.scope = scope
            try:
                reply = await self._transport.call(address, call)
            except CallFailed as fault:
                self._failed(run, address, begun, fault.failure)
        if reply is not None:  # reading is not bounded by the deadline: what is no answer must not pass for a timeout
            return await self._read(run, address, call, judge, begun, reply)
        if scope.cancelled_caught:
            if flight is not None and flight.hedge is not None and flight.hedge.judged is not None:
                self.addresses.was_slow(address, self._now())  # cut short, because the other node has answered
            else:
                self._failed(run, address, begun, Failure.TIMEOUT)
        return None

    async def _read(
        self, run: _Run, address: str, call: Call, judge: Judge[V], begun: float, reply: Reply
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

    def _failed(self, run: _Run, address: str, begun: float, failure: Failure, status: int = 0) -> None:
        took = self._now() - begun
        run.failures.append(Attempt(address, self._wall() - took, took, failure, status))
        self.addresses.failed(address, self._now(), failure)
        self.contacts.failed(address, self._wall(), failure)
        self._failures[failure] += 1
        ATTEMPTS_FAILED.labels(failure).inc()

    def _unanswered(self, run: _Run, since: float, *, exhausted: bool) -> Unanswered:
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
        if self._group is None or not others or not self._budget.take_hedge(now):
            return
        self._hedged += 1
        HEDGES.inc()
        flight.hedge = _Hedge(others[0])
        flight.run.asked[others[0]] = len(flight.run.asked) + len(flight.run.failures)
        self._group.start_soon(self._fly_beside, flight, flight.hedge)

    async def _fly_beside(self, flight: _Flight[V], hedge: _Hedge[V]) -> None:
        try:
            begun = self._now()
            call = self._anew(flight.call)
            hedge.judged = await self._one(flight.run, hedge.address, call, flight.judge, begun, None)
            if hedge.judged is not None and hedge.judged.worth is Worth.CURRENT and flight.scope is not None:
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
