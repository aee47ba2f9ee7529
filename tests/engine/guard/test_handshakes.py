"""Whose connection has to go where nobody has shown yet who it is."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engine.guard.handshakes import DEADLINE, Handshakes


class Crowd:
    """Peers that say nothing."""

    def __init__(self, most: int, nursery: trio.Nursery) -> None:
        self.handshakes = Handshakes(most)
        self.cut: list[str] = []
        self._nursery = nursery

    async def come(self, peer: str, name: str) -> None:
        async def wait() -> None:
            with self.handshakes.place(peer):
                await trio.sleep_forever()
            self.cut.append(name)

        self._nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()


async def test_the_oldest_of_whoever_holds_most_goes_first(autojump_clock: MockClock) -> None:  # noqa: ARG001 - its time
    async with trio.open_nursery() as nursery:
        crowd = Crowd(3, nursery)
        for peer, name in (("service", "s1"), ("crowd", "c1"), ("crowd", "c2"), ("crowd", "c3"), ("other", "o1")):
            await crowd.come(peer, name)
        assert (crowd.cut, len(crowd.handshakes), crowd.handshakes.closed) == (["c1", "c2"], 3, 2)
        await crowd.come("other", "o2")
        assert crowd.cut == ["c1", "c2", "s1"], "of equals the oldest"
        nursery.cancel_scope.cancel()


async def test_all_end_at_the_deadline(autojump_clock: MockClock) -> None:  # noqa: ARG001 - its time
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        crowd = Crowd(8, nursery)
        for number in range(5):
            await crowd.come("crowd", str(number))
    assert len(crowd.cut) == 5
    assert trio.current_time() - began == pytest.approx(DEADLINE)
    assert len(crowd.handshakes) == 0
