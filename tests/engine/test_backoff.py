"""When to try again, and when others have just tried in vain."""

from engine.backoff import Breaker
from engine.clock import Seconds


def test_a_whole_breaker_admits_everybody() -> None:
    breaker = Breaker(Seconds(1.0))
    assert [breaker.admits(5.0) for _ in range(3)] == [True] * 3


def test_after_a_failure_one_in_so_many_seconds_tries() -> None:
    breaker = Breaker(Seconds(1.0))
    breaker.failed(5.0)
    tries = [at / 4 for at in range(20, 36) if breaker.admits(at / 4)]
    assert tries == [6.0, 7.0, 8.0]


def test_a_success_lets_everybody_in_again() -> None:
    breaker = Breaker(Seconds(1.0))
    breaker.failed(5.0)
    assert breaker.admits(6.0)
    assert not breaker.admits(6.0)
    breaker.succeeded()
    assert breaker.admits(6.0)
