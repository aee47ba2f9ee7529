"""A place in the node, kept by whatever process holds it now: a supervised service that can be renewed.

A worker is renewed beside itself: the fresh process serves before the old one drains, so no caller notices. A feeder
holds the replica, which has one writer: it goes before the fresh one comes.
"""

from collections.abc import Callable
from typing import Any

import trio

from engine.config import NodeConfig
from engine.node.child_process import ChildEnded, ChildProcess
from engine.node.orders import Order, Report


class Child:
    """A place and its processes.

    order: made anew for each start. changed: called at each start, readiness and end. ended: told the pid of a
    process that is gone, and the order that it had. head: the highest feed position that one of them has told; -1 =
    none. beside: whether two may run at once.
    """

    def __init__(
        self,
        module: str,
        order: Callable[[], Order],
        *,
        changed: Callable[[], None],
        ended: Callable[[int, Order], None],
        beside: bool,
    ) -> None:
        self._module = module
        self._order = order
        self._changed = changed
        self._ended = ended
        self._beside = beside
        self._process: ChildProcess | None = None
        self._others: list[ChildProcess] = []  # not in place yet, or no more
        self._watching = trio.CancelScope()
        self._starting: trio.Event | None = None  # set once the process in place serves, or cannot
        self._renewed: trio.Event | None = None  # somebody waits until the process in place has been replaced
        self.head = -1

    @property
    def pid(self) -> int:
        """Of the process in place; 0 = there is none."""
        return self._process.pid if self._process else 0

    @property
    def other_pids(self) -> list[int]:
        """Of processes that are about to take the place, or drain."""
        return [other.pid for other in self._others]

    def tell(self, config: NodeConfig) -> list[int]:
        """Tell every process of new settings; they also read their certificates anew.

        Returns the pids of those that do not listen, and go on with what they have.
        """
        processes = [*self._others, *([self._process] if self._process else [])]
        return [process.pid for process in processes if not process.tell(config)]

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None:
        """Until a process ends that was not asked to. Raises ChildEnded; when cancelled, drains first."""
        try:
            await self._begin()
            task_status.started()
            while True:
                await self._watch()
        finally:
            try:
                await self._end_present()
            finally:
                self._settle()

    async def renew(self) -> None:
        """Replace the process in place; none needs no renewal. Raises ChildEnded: the old one goes on.

        One that is still starting is awaited first: it has an older order, and whoever starts it sees to nothing else.
        """
        while self._starting is not None:
            await self._starting.wait()
        if self._process is None:
            return
        if self._beside:
            await self._renew_beside(self._process)
            return
        renewed = self._renewed = trio.Event()
        self._watching.cancel()
        await renewed.wait()

    async def _renew_beside(self, old: ChildProcess) -> None:
        fresh = ChildProcess(self._module, self._order())
        self._others.append(fresh)
        self._changed()
        leaving = fresh
        try:
            await fresh.wait_ready()
            if self._process is old:  # else it ended meanwhile, and the place has been filled, or soon will be
                leaving, self._process = old, fresh
                self._others[:] = [old if other is fresh else other for other in self._others]
                self._watching.cancel()
                self._changed()
        finally:
            await self._end(leaving)

    async def _begin(self) -> None:
        self._process = ChildProcess(self._module, self._order())
        self._starting = starting = trio.Event()
        try:
            self._changed()
            await self._process.wait_ready()
            self._changed()
        finally:
            self._starting = None
            starting.set()

    async def _watch(self) -> None:
        """Until the process in place ends, or another one has taken it."""
        process = self._process
        assert process is not None  # noqa: S101 - since `_begin`
        with trio.CancelScope() as self._watching:
            how = await process.watch(self._hear)
            if self._process is process and self._renewed is None:
                raise ChildEnded(f"the process ended {how}")
        if self._renewed is not None:
            await self._end_present()
            await self._begin()
            self._settle()

    def _hear(self, report: Report) -> None:
        self.head = max(self.head, report.head)

    def _settle(self) -> None:
        if self._renewed is not None:
            self._renewed.set()
            self._renewed = None

    async def _end_present(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._others.append(process)
            await self._end(process)

    async def _end(self, process: ChildProcess) -> None:
        try:
            await process.end()
        finally:
            self._others.remove(process)
            self._ended(process.pid, process.order)
            self._changed()
