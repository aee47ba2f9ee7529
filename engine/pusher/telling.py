"""Telling the ledger's side what became of deliveries, in batches: the next gathers while the last is under way."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import trio

from engine.clock import Seconds
from engine.pusher.calls import until_answered
from engine.pusher.lease import Tenure
from engine.pusher.service import Outcome, PushService

BATCH: Final = 512
LINGER: Final = Seconds(0.5)  # so long gathers what can wait: calls for a few each would cost others their time


class Telling:
    """One task runs it, anybody may tell. What was not told when a pusher dies is pushed again: the same bytes.

    numbers: of batches, rising over all leases of this holder: one that finds its lease again has the same epoch.
    """

    def __init__(self, service: PushService, tenure: Tenure, numbers: Iterator[int]) -> None:
        self._service = service
        self._tenure = tenure
        self._numbers = numbers
        self._waiting: list[Outcome] = []
        self._under_way = 0
        self._some = trio.Event()
        self._pressing = trio.Event()
        self._handed = self._told = 0  # outcomes, since the beginning
        self._progress = trio.Event()

    def tell(self, outcome: Outcome, *, at_once: bool = True) -> None:
        """Take it along in the next call. at_once: which does not wait for others to gather."""
        self._waiting.append(outcome)
        self._some.set()
        if at_once:
            self._pressing.set()
        self._handed += 1

    @property
    def untold(self) -> int:
        """Outcomes that the ledger's side may not have."""
        return len(self._waiting) + self._under_way

    async def run(self) -> None:
        """For ever. Raises LeaseLost."""
        while True:
            await self._gather()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._under_way = len(batch)
            tell = partial(self._service.tell, self._tenure.epoch, batch, next(self._numbers))
            await until_answered("tell", tell)
            self._under_way = 0
            self._note_told(len(batch))

    async def _gather(self) -> None:
        if not self._waiting:
            self._some = trio.Event()
            await self._some.wait()
        with trio.move_on_after(LINGER):
            await self._pressing.wait()
        if len(self._waiting) <= BATCH:
            self._pressing = trio.Event()

    def _note_told(self, count: int) -> None:
        self._told += count
        self._progress.set()
        self._progress = trio.Event()

    async def wait_told(self) -> None:
        """Until everything has been that was there at this call, whatever comes meanwhile."""
        wanted = self._handed
        while self._told < wanted:
            self._pressing.set()
            await self._progress.wait()
