"""The machine's speed beside each figure: how it is taken, and how a bench waits for a machine that is fast enough."""

import pytest

from bench import yardstick
from bench.yardstick import speed, wait_for


def test_the_speed_is_that_of_a_real_machine() -> None:
    assert 0.01 < speed() < 100


def test_a_bench_begins_as_soon_as_the_machine_is_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([0.4, 0.5, 0.9, 1.0])
    monkeypatch.setattr(yardstick, "speed", lambda: next(speeds))
    monkeypatch.setattr(yardstick, "BETWEEN", 0.0)
    assert wait_for(0.8, 60.0) == 0.9


def test_a_machine_that_stays_slow_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardstick, "speed", lambda: 0.4)
    assert wait_for(0.8, 0.0) == 0.4
