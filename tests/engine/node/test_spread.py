"""Few long-lived connections spread evenly over workers that share one accept queue."""

import os
import signal
from collections import Counter

import pytest

from tests.support.nodes import Connect, Running, Start

MAX_APART = 2


def counts(running: Running, answered: list[int]) -> list[int]:
    found = Counter(answered)
    return [found[pid] for pid in running.described()["pids"]["workers"]]


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_spread_evenly(start: Start, callers: Connect, workers: int) -> None:
    running = start(workers=workers).wait_ready(workers)
    open_now: list[int] = []
    for connections in (8, 16, 64):
        open_now += [callers(running).ask() for _ in range(connections - len(open_now))]
        spread = counts(running, open_now)
        assert sum(spread) == connections
        assert max(spread) - min(spread) <= MAX_APART, spread


def test_connections_that_come_at_once_spread_evenly(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    spread = counts(running, [caller.ask() for caller in [callers(running) for _ in range(64)]])
    assert max(spread) - min(spread) <= MAX_APART, spread


def test_a_stopped_worker_keeps_nobody_from_being_served(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    stopped, other = running.described()["pids"]["workers"]
    for _ in range(4):
        callers(running).ask()
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert {callers(running).ask() for _ in range(32)} == {other}
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_a_worker_that_comes_back_gets_its_share(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    victim, other = running.described()["pids"]["workers"]
    for _ in range(16):
        callers(running).ask()
    os.kill(victim, signal.SIGKILL)
    running.wait_replaced(victim)
    (fresh,) = set(running.described()["pids"]["workers"]) - {other}
    assert Counter(callers(running).ask() for _ in range(4))[fresh] >= 3
