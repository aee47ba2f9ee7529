"""A tally counts and says what is new."""

from engine.telemetry.tally import Tally


def test_each_count_is_taken_once() -> None:
    tally = Tally()
    tally()
    tally()
    assert (tally.take(), tally.take()) == (2, 0)
    tally()
    assert (tally.take(), tally.total) == (1, 3)
