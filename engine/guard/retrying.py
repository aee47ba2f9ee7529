"""The retries of a question whose first attempt has failed, in a task of their own that others may wait for.

A run of three, which is in the budget as a whole. It goes on without whoever asked, as long as anybody waits for what
it finds out (`engine.guard.joining`). Runs on trio and asyncio.
"""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import anyio
import anyio.abc
import msgspec

from engine.guard.addresses import Addresses
from engine.guard.calls import Call, Judge
from engine.guard.retry import ATTEMPTS, NOT_SAID, RetryBudget, wait_before
from engine.guard.runs import Answered, Run, Unanswered

V = TypeVar("V")

_RETRIES: Final = ATTEMPTS - 1


class Asker(Protocol):
    """Makes the attempts."""

    async def attempt_again(self, run: Run, address: str, call: Call, judge: Judge[V]) -> Answered[V] | None:
        """The same question under another name. None: it failed, as `run` then says."""

    def unanswered(self, run: Run, since: float, *, exhausted: bool) -> Unanswered:
        """What has come of a run. since: a node counts as failing that has failed after that."""


class _Lead(Generic[V]):
    """A question's retries under way."""

    __slots__ = ("done", "error", "result", "scope")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.scope = anyio.CancelScope()
        self.result: Answered[V] | Unanswered | None = None
        self.error: Exception | None = None


class Retrying:
    """now: monotonic seconds. draw: in [0, 1). is_open: whether no more calls are to be made.

    is_waited_for: whether anybody waits for what others find out. group: where leads run; None: with who asks. Set
    `on_exhausted` to hear of runs that ended without an answer.
    """

    def __init__(
        self,
        asker: Asker,
        addresses: Addresses,
        budget: RetryBudget,
        *,
        now: Callable[[], float],
        draw: Callable[[], float],
        is_open: Callable[[], bool],
        is_waited_for: Callable[[], bool],
    ) -> None:
        self._asker = asker
        self._addresses = addresses
        self._budget = budget
        self._now = now
        self._draw = draw
        self._is_open = is_open
        self._is_waited_for = is_waited_for
        self.group: anyio.abc.TaskGroup | None = None
        self.on_exhausted: Callable[[Unanswered], None] = lambda _: None

    async def go_on(self, run: Run, call: Call, judge: Judge[V]) -> Answered[V] | Unanswered:
        """After a first attempt that failed."""
        since = self._now()
        if run.is_over() or self._is_open():
            return self._asker.unanswered(run, since, exhausted=run.is_over())
        if not self._budget.take(since, _RETRIES):
            missed = self._asker.unanswered(run, since, exhausted=False)
            return msgspec.structs.replace(missed, is_out_of_retries=True)
        if self.group is None:
            return await self._lead(run, call, judge, since)
        return await self._follow(self.group, run, call, judge, since)

    async def _follow(
        self, group: anyio.abc.TaskGroup, run: Run, call: Call, judge: Judge[V], since: float
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
            if not self._is_waited_for():
                lead.scope.cancel()
        if lead.error is not None:
            raise lead.error
        return lead.result or self._asker.unanswered(run, since, exhausted=False)

    async def _lead(self, run: Run, call: Call, judge: Judge[V], since: float) -> Answered[V] | Unanswered:
        """Three retries, which are in the budget. Whoever is to hear of their failure has when this returns."""
        result = await self._run(run, call, judge, since)
        if isinstance(result, Unanswered) and result.exhausted:
            self.on_exhausted(result)
        return result

    async def _run(self, run: Run, call: Call, judge: Judge[V], since: float) -> Answered[V] | Unanswered:
        made = 0
        try:
            for attempt in range(2, ATTEMPTS + 1):
                address = self._next_address(run)
                await anyio.sleep(wait_before(attempt, self._draw(), run.retry_after.pop(address, NOT_SAID)))
                if self._is_open():  # others have found out meanwhile
                    return self._asker.unanswered(run, since, exhausted=False)
                made += 1
                answer = await self._asker.attempt_again(run, address, call, judge)
                if answer is not None:
                    return answer
                if run.is_over():
                    break
        finally:
            self._budget.give_back(_RETRIES - made)
        return self._asker.unanswered(run, since, exhausted=True)

    def _next_address(self, run: Run) -> str:
        """One that has not been asked in this run, the best first; else the one that was asked longest ago.

        Where others are left, not one that has told us to slow down.
        """
        order = self._addresses.order(self._now())
        return min(order, key=lambda address: (address in run.retry_after, run.asked.get(address, -1)))
