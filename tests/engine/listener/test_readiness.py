"""The loop's promises: one newcomer a round, after the others; turns in order; a bell that ends its waiting."""

import itertools
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from engine.listener.readiness import OUT, Readiness


class Noting:
    """A member that writes down its turns, and reads nothing: it stays ready."""

    def __init__(self, name: str, turns: list[str], then: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.turns = turns
        self.then = then

    def on_ready(self) -> None:
        self.turns.append(self.name)
        self.then()

    def go_on(self) -> None:
        self.turns.append(f"{self.name} again")
        self.then()

    def post(self) -> None:
        """Nothing is held back here."""


class Line:
    """A loop that ends its rounds after a number of ticks, and sockets that are ready to be read."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.turns: list[str] = []
        self.scope = trio.CancelScope()
        self.last = 0
        self.readiness = Readiness(self._tick, patience=1e9)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def _tick(self) -> None:
        self.rounds.append(len(self.turns))
        if len(self.rounds) > self.last:
            self.scope.cancel()

    def ready_socket(self) -> int:
        """A descriptor with a byte to read."""
        near, far = socket.socketpair()
        self._pairs.append((near, far))
        far.send(b"x")
        return near.fileno()

    def newcomer(self, name: str) -> int:
        descriptor = self.ready_socket()
        self.readiness.greet(descriptor, Noting(name, self.turns))
        return descriptor

    def settled(self, name: str) -> int:
        descriptor = self.newcomer(name)
        self.readiness.settle(descriptor)
        return descriptor

    async def turn(self, rounds: int) -> list[list[str]]:
        """Who had turns in each round."""
        self.last = rounds
        with self.scope:
            await self.readiness.run()
        bounds = [*self.rounds, len(self.turns)]
        return [self.turns[a:b] for a, b in itertools.pairwise(bounds)][:rounds]

    def close(self) -> None:
        self.readiness.close()
        for pair in self._pairs:
            for end in pair:
                end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


async def test_one_newcomer_a_round_after_those_who_stayed(line: Line) -> None:
    for number in range(3):
        line.newcomer(f"new {number}")
    line.settled("old")
    rounds = await line.turn(3)
    assert [turns[0] for turns in rounds] == ["old"] * 3
    assert sorted(turns[1] for turns in rounds) == ["new 0", "new 1", "new 2"]
    assert all(len(turns) == 2 for turns in rounds)


async def test_who_asks_for_another_turn_has_it_in_the_next_round_and_order(line: Line) -> None:
    one, other = Noting("one", line.turns), Noting("other", line.turns)
    one.then = lambda: line.readiness.again(one)
    other.then = lambda: line.readiness.again(other)
    line.settled("old")
    line.readiness.again(one)
    line.readiness.again(other)
    assert await line.turn(3) == [["one again", "other again", "old"]] * 3


async def test_the_bell_ends_the_waiting(line: Line) -> None:
    line.last = 10**9
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.readiness.run)
        await trio.testing.wait_all_tasks_blocked()
        line.readiness.again(Noting("woken", line.turns))
        with trio.fail_after(20):
            while not line.turns:  # noqa: ASYNC110 - the loop has no event for it
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.01)  # rung once, it is heard once
        nursery.cancel_scope.cancel()
    assert line.turns == ["woken again"]


async def test_who_rests_or_has_left_has_no_turn(line: Line) -> None:
    resting, gone = line.settled("resting"), line.settled("gone")
    line.settled("old")
    line.readiness.rest(resting)
    line.readiness.forget(gone)
    assert await line.turn(2) == [["old"]] * 2


async def test_who_comes_back_from_a_rest_has_turns_again(line: Line) -> None:
    descriptor = line.settled("back")
    line.readiness.rest(descriptor)
    line.readiness.come_back(descriptor)
    line.readiness.watch(descriptor, OUT)
    assert await line.turn(1) == [["back"]]


async def test_a_round_of_asked_for_turns_grows_late_too(line: Line) -> None:
    """Many owed turns are work like any other: whoever comes after long work is told to come back."""
    seen: list[bool] = []
    line.readiness.close()
    line.readiness = Readiness(line._tick, patience=0.0)
    line.settled("old")  # or nobody would be ready for the round that ends this, where a stretch was over before it
    member = Noting("m", line.turns, lambda: seen.append(line.readiness.late))
    for _ in range(20):
        line.readiness.again(member)
    await line.turn(1)
    assert seen == [False] * 16 + [True] * 4
    assert not line.readiness.late  # and between the rounds nobody is


class Burdened:
    """A newcomer whose one turn takes longer than a stretch of rounds, and ends with something to send."""

    def __init__(self, near: socket.socket, readiness: Readiness) -> None:
        self.near = near
        self.readiness = readiness
        self.posted = trio.Event()

    def on_ready(self) -> None:
        self.near.recv(1)
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            pass
        assert self.readiness.post_later(self)

    def go_on(self) -> None:
        raise AssertionError("nobody asked for another turn")

    def post(self) -> None:
        self.posted.set()


async def test_what_a_newcomer_has_to_send_does_not_wait_for_somebody_else(nursery: trio.Nursery) -> None:
    readiness = Readiness(lambda: None, patience=1e9)
    near, far = socket.socketpair()
    with near, far:
        member = Burdened(near, readiness)
        readiness.greet(near.fileno(), member)
        nursery.start_soon(readiness.run)
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"x")
        with trio.fail_after(20):
            await member.posted.wait()
        nursery.cancel_scope.cancel()
    readiness.close()
