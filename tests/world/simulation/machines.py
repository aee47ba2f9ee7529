"""Processes on made-up machines: they are started, stopped for a while, and killed at any await.

A process that is stopped or dead gets no turn: trio's own way of making a task runnable is caught, and its tasks are
put aside. A stopped one gets them back; a dead one keeps them until the world is over, so that nothing of it, not even
a `finally`, runs after its death, as with kill -9.
"""

import contextvars
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import trio
from trio._core import _run as trio_run
from trio._core._run import GLOBAL_RUN_CONTEXT, Runner
from trio.testing import MockClock

_owner: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)
_reschedule = Runner.reschedule


class Process:
    """What is stopped and killed together. died: told when it ends by an error of its own."""

    def __init__(self, name: str, died: Callable[[str, BaseException], None]) -> None:
        self.name = name
        self.alive = True
        self.halted = False
        self.over = False
        self.at_death: list[Callable[[], None]] = []  # what the kernel does for the dead, and what peers notice
        self._died = died
        self._held: list[trio.lowlevel.Task] = []
        self._nursery: trio.Nursery | None = None

    async def run(self, main: Callable[["Process"], Awaitable[None]]) -> None:
        """Run `main` and all that it starts, until the world is over. Start it in the world's nursery."""
        _owner.set(self)
        await trio.lowlevel.checkpoint()  # from here on it can be halted, and may have been already
        try:
            async with trio.open_nursery() as self._nursery:
                await main(self)
        except* Exception as group:
            if not self.over:
                self._died(self.name, group)

    def start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task in this process, whoever calls."""
        assert self._nursery is not None
        context = contextvars.copy_context()
        context.run(_owner.set, self)
        context.run(self._nursery.start_soon, function, *args)

    def halt(self) -> None:
        """No turn from now on (tasks that are in the present round of turns have theirs).

        Not once the world is over: nobody would give the turns back, and the world waited for these tasks for ever.
        """
        self.halted = not self.over

    def resume(self) -> None:
        """Go on where it stood."""
        if self.alive or self.over:
            self.halted = False
            GLOBAL_RUN_CONTEXT.runner.runq.extend(self._held)
            self._held = []

    async def kill(self) -> None:
        """No turn ever again; once the world is over, it ends as all do."""
        if self.alive and not self.over:
            self.alive = False
            self.halt()
            await trio.lowlevel.cancel_shielded_checkpoint()  # the present round of turns
            for act in self.at_death:
                act()

    def bury(self) -> None:
        """The world is over: let the tasks end, whatever they say about it."""
        self.over = True
        self.resume()

    def hold(self, task: trio.lowlevel.Task) -> None:
        self._held.append(task)


def _reschedule_or_hold(runner: Runner, task: trio.lowlevel.Task, *args: Any) -> None:
    _reschedule(runner, task, *args)
    process = task.context.get(_owner)
    if process is not None and process.halted:
        runner.runq.pop()
        process.hold(task)


def in_steps(clock: MockClock, step: float) -> None:
    """Let time go on in steps (seconds): what is due within one comes to pass at once, in any order.

    It saves two thirds of the turns of trio's loop, and the order within a step is as free as the order of two
    machines' clocks.
    """

    def jump() -> None:
        deadline = GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if deadline < math.inf:
            clock.jump(max(math.ceil(deadline / step) * step, deadline) - clock.current_time())

    # It stands still between jumps; trio asks it at every turn.
    clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign] # as above
    clock._autojump = jump  # type: ignore[method-assign] # what trio's loop calls


@contextmanager
def repeatable(random: Random) -> Iterator[None]:
    """Make trio's order of turns the seed's, and processes stoppable; there is no public way to either."""
    trio_run._r.setstate(random.getstate())
    allowed, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, True  # type: ignore[misc] # a Final there
    Runner.reschedule = _reschedule_or_hold  # type: ignore[method-assign] # see above
    try:
        yield
    finally:
        Runner.reschedule = _reschedule  # type: ignore[method-assign] # see above
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc] # see above
