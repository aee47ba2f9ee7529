"""What happens while a run lasts, for whoever watches it, and the states that nodes say they are in, for the chart."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from tests.chaos.edps import Load
from tests.chaos.judge import Judge
from tests.chaos.results import States
from tests.chaos.system import System
from tests.chaos.tally import availability

LOOK_EVERY = 0.25
RECENT = 2_000  # questions that the figures on the terminal are of


class Watching:
    """say: a line that stays; show: seconds done, and a line that is replaced by the next one."""

    def __init__(self, say: Callable[[str], None], show: Callable[[float, str], None]) -> None:
        self.say, self.show = say, show

    @asynccontextmanager
    async def over(self, system: System, load: Load, judge: Judge, began: float) -> AsyncIterator[States]:
        """Look until the end of the block. Gives what each node said it was, and since when."""
        states: States = {node: [] for node in system.nodes}
        async with trio.open_nursery() as nursery:
            for node in system.nodes:
                nursery.start_soon(_look_at_node, system, node, states[node], began)
            nursery.start_soon(self._look_at_load, load, judge, began)
            yield states
            nursery.cancel_scope.cancel()

    async def _look_at_load(self, load: Load, judge: Judge, began: float) -> None:
        while True:
            found = availability(load.asked[-RECENT:])
            said = f"{found.raw:.1%} answered, {found.retried:.1%} with a retry"
            said = f"{len(load.asked):,} asked · {said} · {len(judge.violations)} violations"
            self.show(trio.current_time() - began, said)
            await trio.sleep(LOOK_EVERY)


async def _look_at_node(system: System, node: str, states: list[tuple[float, str]], began: float) -> None:
    while True:
        state = str((await system.status(node)).get("state", "silent"))
        if not states or states[-1][1] != state:
            states.append((trio.current_time() - began, state))
        await trio.sleep(LOOK_EVERY)
