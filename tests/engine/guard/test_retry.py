"""The retry strategy's numbers, and its budget against a plain count."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import Seconds
from engine.guard.evidence_words import Failure
from engine.guard.retry import (
    ATTEMPTS,
    CONNECT,
    FLOOR,
    TOTAL,
    WAITS,
    WINDOW,
    RetryBudget,
    counts_as_outage,
    is_retried,
    is_slow_down,
    read_retry_after,
    wait_before,
)

NEARLY_ONE: Final = 1 - 2**-53


def test_the_worst_case_is_that_of_the_strategy() -> None:
    """Four attempts of 2 s and waits of 0.2, 0.4 and 0.8 s: 9.4 s."""
    assert (ATTEMPTS, CONNECT, TOTAL) == (4, 1.0, 2.0)
    assert ATTEMPTS * TOTAL + sum(WAITS) == pytest.approx(9.4)
    waited = sum(wait_before(attempt, NEARLY_ONE) for attempt in range(2, ATTEMPTS + 1))
    assert waited == pytest.approx(1.4)


@pytest.mark.parametrize(("attempt", "most"), [(2, 0.2), (3, 0.4), (4, 0.8)])
@given(draw=st.floats(0, 1, exclude_max=True))
def test_jitter_is_full(attempt: int, most: float, draw: float) -> None:
    assert wait_before(attempt, draw) == pytest.approx(most * draw)


def test_retry_after_is_respected_up_to_a_minute() -> None:
    assert wait_before(2, 0.5, Seconds(7.0)) == 7.0
    assert wait_before(2, 0.5, Seconds(3600.0)) == 60.0
    assert wait_before(4, NEARLY_ONE, Seconds(0.1)) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"5", 5.0), (b"0", 0.0), (b"", 0.0), (b"-1", 0.0), (b"soon", 0.0), (b"9" * 30, 0.0)]
)
def test_retry_after_is_read_as_whole_seconds(value: bytes, seconds: float) -> None:
    assert read_retry_after(value) == seconds


@pytest.mark.parametrize(
    ("failure", "retried", "outage"),
    [
        (Failure.CONNECT, True, True),
        (Failure.TIMEOUT, True, True),
        (Failure.RESET, True, True),
        (Failure.SERVER, True, True),
        (Failure.TLS, True, False),
        (Failure.TOO_MANY, True, False),
        (Failure.NO_ANSWER, True, False),
        (Failure.BUSY, True, False),
        (Failure.REFUSED, False, False),
    ],
)
def test_what_is_retried_and_what_is_an_outage(failure: Failure, retried: bool, outage: bool) -> None:
    assert (is_retried(failure), counts_as_outage(failure)) == (retried, outage)


def test_every_failure_is_in_the_table_above() -> None:
    assert len(Failure) == 9


def test_nothing_but_429_is_a_call_to_slow_down() -> None:
    assert is_slow_down([Failure.TOO_MANY] * 4)
    assert not is_slow_down([Failure.TOO_MANY, Failure.TIMEOUT])
    assert not is_slow_down([])


STEPS = st.lists(
    st.tuples(st.floats(0, 2), st.sampled_from(["call", "run", "hedge", "back"])), max_size=300
)  # seconds that pass first


@given(STEPS)
def test_no_ten_seconds_hold_more_retries_than_a_tenth_of_their_calls(steps: list[tuple[float, str]]) -> None:
    """Never more than allowed when it was granted, by a plain count over all that ever happened."""
    budget, now = RetryBudget(), 0.0
    calls: list[float] = []
    taken: list[float] = []
    for pause, what in steps:
        now += pause
        if what == "call":
            calls.append(now)
            budget.note_call(now)
            continue
        if what == "back":
            if taken and now - taken[-1] < WINDOW:
                budget.give_back(1)
                taken.pop()
            continue
        count, part = (3, 1.0) if what == "run" else (1, 0.5)
        recent = sum(now - at < WINDOW for at in taken)
        most = part * max(FLOOR, 0.1 * sum(now - at < WINDOW + 0.1 for at in calls))
        if budget.take(now, 3) if what == "run" else budget.take_hedge(now):
            taken += [now] * count
            assert recent + count <= most
        else:
            assert recent + count > part * max(FLOOR, 0.1 * sum(now - at < WINDOW - 0.1 for at in calls))


def test_a_failing_service_leaves_whole_runs_and_not_single_retries() -> None:
    """1,000 calls within a second: a hundred retries, as 33 whole runs."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.note_call(0.5)
    assert sum(budget.take(1.0, 3) for _ in range(1000)) == 33
    assert not budget.take_hedge(1.0)  # half of the budget is for retries alone
    assert budget.take(1.0, 1)
    assert not budget.take(1.0, 1)
    assert not budget.take(10.9, 3)
    assert budget.take(11.0, 3)  # the window has passed
