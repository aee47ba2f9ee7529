"""Processes of simulated worlds: halted, killed, and let go once the world is over."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.world.simulation.machines import Process, repeatable


class Life:
    """A process that counts its turns, and what became of it. last_words: awaited by it when its end has come."""

    def __init__(self, last_words: Callable[[Process], Awaitable[None]] | None = None) -> None:
        self.process = Process("one", lambda _, error: self.errors.append(error))
        self.errors: list[BaseException] = []
        self.turns = 0
        self.has_ended = False
        self.was_held = False
        self._turn = trio.Event()
        self._last_words = last_words

    async def live(self, process: Process) -> None:
        try:
            while True:
                await self._turn.wait()
                self._turn = trio.Event()
                self.turns += 1
        finally:
            if self._last_words is not None:
                with trio.CancelScope(shield=True):
                    await self._last_words(process)
            self.has_ended = True

    async def give_turn(self) -> None:
        self._turn.set()
        await wait_all_tasks_blocked()

    async def watch(self) -> None:
        """Note whether it is held although the world is over, and then let it go: a test must not hang for it."""
        await wait_all_tasks_blocked()
        self.was_held = bool(self.process._held)
        self.process.halted = False
        self.process.resume()


def played(life: Life, story: Callable[[Life], Awaitable[None]]) -> Life:
    """A world with this process, in which this happens; then it is over, and everything is cancelled."""

    async def main() -> None:
        async with trio.open_nursery() as outside, trio.open_nursery() as world:
            world.start_soon(life.process.run, life.live)
            await wait_all_tasks_blocked()
            await story(life)
            life.process.bury()
            outside.start_soon(life.watch)
            world.cancel_scope.cancel()

    with repeatable(Random(1)):  # noqa: S311 - the order of turns, the same in every run
        trio.run(main)
    return life


def test_one_that_is_halted_goes_on_where_it_stood() -> None:
    async def story(life: Life) -> None:
        life.process.halt()
        await life.give_turn()
        assert life.turns == 0
        life.process.resume()
        await wait_all_tasks_blocked()
        assert life.turns == 1

    life = played(Life(), story)
    assert (life.has_ended, life.was_held, life.errors) == (True, False, [])


def test_one_that_is_killed_gets_no_turn_again_and_its_end_is_noticed() -> None:
    noticed: list[int] = []

    async def story(life: Life) -> None:
        life.process.at_death.append(lambda: noticed.append(life.turns))
        await life.give_turn()
        await life.process.kill()
        await life.process.kill()
        life.process.resume()
        await life.give_turn()
        assert (life.turns, life.has_ended) == (1, False)

    assert played(Life(), story).has_ended
    assert noticed == [1]


async def _halted(process: Process) -> None:
    process.halt()
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("too_late", [Process.kill, _halted])
def test_one_that_is_killed_or_halted_once_the_world_is_over_ends_with_it(
    too_late: Callable[[Process], Awaitable[None]],
) -> None:
    async def story(life: Life) -> None:
        await life.give_turn()

    life = played(Life(too_late), story)
    assert (life.has_ended, life.was_held, life.errors) == (True, False, [])


def test_one_that_is_halted_when_the_world_is_over_ends_with_it() -> None:
    async def story(life: Life) -> None:
        life.process.halt()
        await life.give_turn()

    life = played(Life(), story)
    assert (life.has_ended, life.was_held, life.errors) == (True, False, [])
