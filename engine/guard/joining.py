"""Shares that found nobody and have no retry left in the budget: they wait for what the retries of others find out.

    a run of retries is exhausted, and it is an outage    all fall back, as that run's own share does
    a node answers anybody                                all are asked again, in batches: a retry for up to 500 shares
    neither, within 9.4 seconds of a share's question     it is unanswered

Waiting makes no call. Asking again does, within the budget of retries, and a share is asked four times at most. Who
waits is never judged by less than others: its own attempt, and the newest contact with each node, must say outage.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import anyio
import anyio.abc
import msgspec

from engine.clock import Seconds
from engine.guard.client import Client
from engine.guard.fallback import verdict_on_run
from engine.guard.outages import Outages
from engine.guard.questions import MAX_BATCH, MAX_ITEMS, size_of
from engine.guard.retry import ATTEMPTS, WORST_CASE, wait_before
from engine.guard.runs import Unanswered
from engine.guard.shares import Reason, Share, Verdict
from engine.guard.verdicts import Verdicts
from engine.telemetry.guard_calls import WAITING

MOST: Final = 10_000  # shares; each is a task of somebody's, and a token
AGAIN: Final = Seconds(0.2)  # while the budget has no retry left

Asked = tuple[Share, bytes]  # with its token's digest


class Again(msgspec.Struct, frozen=True):
    """How shares are asked again, by one attempt each. many: a share that it leaves out is to be asked singly.

    takes_many: whether the service takes many at once, as far as is known.
    """

    many: Callable[[Sequence[Asked]], Awaitable[dict[int, Verdict] | Unanswered]]
    singly: Callable[[Share, bytes], Awaitable[Verdict | Unanswered]]
    takes_many: Callable[[], bool]


class _Waiting:
    """The shares of one question."""

    __slots__ = ("asked", "asks", "changed", "found", "missed", "singly")

    def __init__(self, asked: Sequence[Asked], missed: Unanswered) -> None:
        self.asked = asked
        self.missed = missed
        self.asks = [1] * len(asked)  # attempts, each
        self.found: dict[int, Verdict] = {}
        self.singly: set[int] = set()  # what no batch could settle
        self.changed = anyio.Event()  # there is nothing left to wait for

    def settle(self, place: int, verdict: Verdict) -> None:
        self.found[place] = verdict
        if len(self.found) == len(self.asked):
            self.changed.set()


_Place = tuple[_Waiting, int]


class Joining:
    """One for each guard. boot: seconds by the clock that the client has; draw: in [0, 1)."""

    def __init__(
        self,
        client: Client,
        verdicts: Verdicts,
        outages: Outages,
        again: Again,
        group: anyio.abc.TaskGroup,
        boot: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._client = client
        self._verdicts = verdicts
        self._outages = outages
        self._again = again
        self._group = group
        self._boot = boot
        self._draw = draw
        self._waiting: dict[int, _Waiting] = {}
        self._count = 0
        self._is_asking = self._is_closed = False
        client.retrying.on_exhausted = self._exhausted

    async def settle(self, asked: Sequence[Asked], missed: Unanswered) -> list[Verdict]:
        """Verdicts on shares whose question was not answered, at once where there is nothing to wait for."""
        if not self._may_wait(len(asked), missed):
            return self._verdicts.unanswered(asked, missed)
        waiting = _Waiting(asked, missed)
        self._join(waiting)
        try:
            with anyio.move_on_after(missed.began + WORST_CASE - self._boot()):
                await waiting.changed.wait()
        finally:
            self._leave(waiting)
        left = [place for place in range(len(asked)) if place not in waiting.found]
        judged = self._verdicts.unanswered([asked[place] for place in left], missed)
        found = waiting.found | dict(zip(left, judged, strict=True))
        return [found[place] for place in range(len(asked))]

    def close(self) -> None:
        """Nothing is found out any more: whoever waits need not."""
        self._is_closed = True
        for waiting in self._waiting.values():
            waiting.changed.set()

    def _may_wait(self, count: int, missed: Unanswered) -> bool:
        """Not where others have found out already, or where the service asked us to slow down."""
        if self._is_closed or not missed.is_out_of_retries or not self._outages.is_closed or self._count + count > MOST:
            return False
        return verdict_on_run(missed.kinds, missed.failing) is not Reason.SLOW_DOWN

    def _join(self, waiting: _Waiting) -> None:
        self._waiting[id(waiting)] = waiting
        self._count += len(waiting.asked)
        self._client.on_answer = self._answered
        WAITING.set(self._count)

    def _leave(self, waiting: _Waiting) -> None:
        del self._waiting[id(waiting)]
        self._count -= len(waiting.asked)
        if not self._waiting:
            self._client.on_answer = None
        WAITING.set(self._count)

    def _exhausted(self, result: Unanswered) -> None:
        """A run has ended without an answer. Whoever began it may be gone: what it found out counts all the same."""
        if verdict_on_run(result.kinds, result.failing) is None:
            self._outages.begin(result.failures)
            self._fall_back()

    def _fall_back(self) -> None:
        """All that may, with one wait for the disk."""
        places: list[_Place] = []
        for waiting in self._waiting.values():
            if verdict_on_run(waiting.missed.kinds, waiting.missed.failing) in (None, Reason.UNANSWERED):
                places += [(waiting, place) for place in range(len(waiting.asked)) if place not in waiting.found]
            waiting.changed.set()
        verdicts = self._verdicts.in_outage([waiting.asked[place] for waiting, place in places])
        for (waiting, place), verdict in zip(places, verdicts, strict=True):
            waiting.settle(place, verdict)

    def _answered(self) -> None:
        """A node has answered somebody."""
        if not self._is_asking and not self._is_closed:
            self._is_asking = True
            self._group.start_soon(self._ask_again)

    async def _ask_again(self) -> None:
        """All that wait, as the budget has it, until nobody answers."""
        try:
            await anyio.sleep(wait_before(2, self._draw()))
            while places := list(self._next()):
                if not self._outages.is_closed:
                    return
                if not self._client.take_retry():
                    await anyio.sleep(AGAIN)
                elif not await self._ask(places):
                    return
        finally:
            self._is_asking = False

    def _next(self) -> Iterator[_Place]:
        """As many as one call takes; one alone where it must be asked with its token."""
        size = count = 0
        all_singly = not self._again.takes_many()
        for waiting in self._waiting.values():
            for place, (share, _) in enumerate(waiting.asked):
                if place in waiting.found or waiting.asks[place] >= ATTEMPTS:
                    continue
                size += size_of(share)
                singly = all_singly or place in waiting.singly
                if count and (singly or count == MAX_ITEMS or size > MAX_BATCH):
                    return
                yield waiting, place
                count += 1
                if singly:
                    return

    async def _ask(self, places: Sequence[_Place]) -> bool:
        """One call; whether somebody answered who may be asked for the others as well."""
        for waiting, place in places:
            waiting.asks[place] += 1
        first, at = places[0]
        if len(places) == 1:
            verdict = await self._again.singly(*first.asked[at])
            if isinstance(verdict, Unanswered):
                return self._missed(places, verdict)
            first.settle(at, verdict)
            return True
        found = await self._again.many([waiting.asked[place] for waiting, place in places])
        if isinstance(found, Unanswered):
            return self._missed(places, found)
        was_taken = self._again.takes_many()
        for number, (waiting, place) in enumerate(places):
            if number in found:
                waiting.settle(place, found[number])
            elif was_taken:
                waiting.singly.add(place)
            else:  # refused as a whole: that was no attempt at any of them
                waiting.asks[place] -= 1
        return True

    def _missed(self, places: Sequence[_Place], missed: Unanswered) -> bool:
        """A refusal is an answer, and a 429 is one that says wait; all else was nobody."""
        reason = verdict_on_run(missed.kinds, missed.failing)
        if reason not in (Reason.REFUSED_CALLER, Reason.SLOW_DOWN):
            return False
        verdicts = self._verdicts.unanswered([waiting.asked[place] for waiting, place in places], missed)
        for (waiting, place), verdict in zip(places, verdicts, strict=True):
            waiting.settle(place, verdict)
        return reason is Reason.REFUSED_CALLER
