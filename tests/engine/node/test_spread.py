"""Few long-lived connections spread evenly over workers that share one accept queue."""

import os
import signal
from collections import Counter

import pytest

from tests.support.nodes import Connect, Running, Start

MAX_APART = 2
MOST = 96  # newcomers until a worker that came back must have caught up, however busy the machine is


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
    """It catches up, and stays even from then on. Others wait for it for a moment only, which on a machine that keeps
    it from running may be too short: so each of the two may take some more newcomers.
    """
    running = start().wait_ready()
    victim, other = running.described()["pids"]["workers"]
    first = [callers(running).ask() for _ in range(16)]
    os.kill(victim, signal.SIGKILL)
    running.wait_replaced(victim)
    open_now = [pid for pid in first if pid == other]
    even_since = 0
    for _ in range(MOST):
        open_now.append(callers(running).ask())
        spread = counts(running, open_now)
        even_since = even_since + 1 if max(spread) - min(spread) <= MAX_APART else 0
        if even_since == len(first):
            return
    pytest.fail(f"the connections went to {Counter(open_now)}")
