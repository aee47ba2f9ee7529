"""A flood of one reason is counted, and hides no other."""

from engine.telemetry.floods import Floods


def test_lines_beyond_the_bound_are_left_out_and_told_later() -> None:
    floods = Floods(2)
    assert [floods.admit("refused", 1.0 + step / 10) for step in range(5)] == [0, 0, None, None, None]
    assert [floods.admit("refused", 2.0) for _ in range(3)] == [3, 0, None]
    assert floods.admit("refused", 7.5) == 1


def test_each_reason_has_its_own_allowance() -> None:
    floods = Floods(1)
    assert (floods.admit("refused", 1.0), floods.admit("refused", 1.0)) == (0, None)
    assert floods.admit("expired", 1.0) == 0
