"""Group commit: one task writes everything that queued up during the last commit, in one transaction.

A commit waits for the disk; so a hundred writers need one wait and not a hundred. Callers get their own outcome after
the commit: a refusal of one does not spoil the others. When the database is lost, all of a batch are told so.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from admin.ledger.admission import Write, check
from admin.ledger.database import DatabaseFault
from admin.ledger.store import LedgerUnavailable, Receipt
from admin.ledger.transaction import Outcome
from engine.errors import Fault

MAX_BATCH: Final = 1_000  # writes in one transaction: about 25 ms, so that nobody waits long behind it
MAX_QUEUED: Final = 20_000  # a second's worth; more would only wait for a time-out

Commit = Callable[[list[Write]], Awaitable[list[Outcome]]]


class _Waiting:
    """A caller and its write. task: None once it was answered or has left."""

    __slots__ = ("outcome", "task", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.outcome: Outcome | None = None


class GroupCommit:
    """The queue and its one worker."""

    def __init__(self, commit: Commit) -> None:
        """commit: stores a batch and returns an outcome for each write, after the commit."""
        self._commit = commit
        self._queue: deque[_Waiting] = deque()
        self._wake = trio.Event()
        self._open = False

    async def submit(self, write: Write) -> Receipt:
        """Queue a write and wait for its outcome. Cancelling does not undo it. Raises what `Ledger.append` does."""
        check(write)
        if not self._open or len(self._queue) >= MAX_QUEUED:
            raise LedgerUnavailable("the ledger takes no writes now", detail=f"{len(self._queue)} are waiting")
        await trio.lowlevel.checkpoint_if_cancelled()
        waiting = _Waiting(write)
        self._queue.append(waiting)
        self._wake.set()

        def leave(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        outcome = waiting.outcome
        if isinstance(outcome, Fault):  # a new one each: callers of one batch must not share a traceback
            raise type(outcome)(outcome.text, detail=outcome.detail) from outcome
        assert outcome is not None  # noqa: S101 - `_settle` sets it before it wakes the caller
        return outcome

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit batches until `close` was called and the queue is empty, or until cancelled."""
        self._open = True
        task_status.started()
        try:
            while self._open or self._queue:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    await self._commit_next()
        finally:
            self._open = False
            self._settle(list(self._queue), LedgerUnavailable("the ledger has stopped"))
            self._queue.clear()

    def close(self) -> None:
        """Take no more writes; what is queued is still written."""
        self._open = False
        self._wake.set()

    async def _commit_next(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
        try:
            await self._commit_all(batch)
        finally:  # cancelled before the thread started: nothing was written
            self._settle(batch, LedgerUnavailable("the ledger has stopped"))

    async def _commit_all(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = await self._commit([waiting.write for waiting in batch])
        except DatabaseFault as fault:
            await self._commit_apart(batch, fault)
        except Fault as fault:
            self._settle(batch, fault)
        else:
            for waiting, outcome in zip(batch, outcomes, strict=True):
                self._settle([waiting], outcome)

    async def _commit_apart(self, batch: list[_Waiting], fault: Fault) -> None:
        """A statement was refused and all of the batch rolled back: find out whose fault it was."""
        if len(batch) == 1:
            self._settle(batch, fault)
            return
        for waiting in batch:
            await self._commit_all([waiting])

    @staticmethod
    def _settle(batch: list[_Waiting], outcome: Outcome) -> None:
        for waiting in batch:
            task, waiting.task = waiting.task, None
            if task is not None:
                waiting.outcome = outcome
                trio.lowlevel.reschedule(task)
