"""Allowances per caller: whole, no more, refilled by time and untouched by other callers."""

from hypothesis import given
from hypothesis import strategies as st

from engine.clock import BootTime
from engine.consent.records import ClientId
from engine.listener.rates import Rates

A, B = ClientId("edp-a"), ClientId("edp-b")


def admitted(rates: Rates, calls: int, at: float, per_second: int = 10, caller: ClientId = A) -> int:
    return sum(rates.admit(caller, per_second, BootTime(at)) for _ in range(calls))


def test_a_seconds_worth_passes_at_once_and_no_more() -> None:
    assert admitted(Rates(), 25, 100.0) == 10


def test_time_fills_the_bucket_up_to_a_seconds_worth() -> None:
    rates = Rates()
    admitted(rates, 10, 100.0)
    assert admitted(rates, 25, 100.5) == 5
    assert admitted(rates, 25, 200.0) == 10


def test_callers_do_not_take_from_each_other() -> None:
    rates = Rates()
    admitted(rates, 25, 100.0)
    assert admitted(rates, 25, 100.0, caller=B) == 10


def test_a_changed_allowance_holds_from_the_next_refill() -> None:
    rates = Rates()
    admitted(rates, 10, 100.0)
    assert admitted(rates, 300, 101.0, per_second=100) == 100
    assert admitted(rates, 300, 102.0, per_second=10) == 10


def test_a_clock_that_stands_still_or_goes_back_fills_nothing() -> None:
    rates = Rates()
    admitted(rates, 10, 100.0)
    assert admitted(rates, 5, 100.0) == 0
    assert admitted(rates, 5, 50.0) == 0


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.integers(1, 50))
def test_never_more_than_a_bucket_and_what_time_has_brought(pauses: list[float], per_second: int) -> None:
    rates, now, passed = Rates(), 100.0, 0
    for pause in pauses:
        now += pause
        passed += rates.admit(A, per_second, BootTime(now))
    assert passed <= per_second + (now - 100.0) * per_second + 1e-6
