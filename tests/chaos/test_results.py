"""Figures that are read off states over time, and how the report shows seconds."""

from tests.chaos.report import spans
from tests.chaos.results import seconds_in
from tests.chaos.run import busy_share


def test_each_state_lasts_until_the_next_one_and_the_last_until_the_end() -> None:
    states = [(0.5, "closed"), (10.0, "buffering"), (12.0, "closed")]
    assert seconds_in(states, 20.0) == {"closed": 17.5, "buffering": 2.0}
    assert seconds_in([], 20.0) == {}


def test_seconds_that_lie_together_are_shown_together() -> None:
    assert spans({3: 1, 4: 2, 9: 5}) == "3-4 (3), 9 (5)"


def test_a_machine_is_busy_by_the_time_that_it_worked() -> None:
    assert busy_share((10, 100), (40, 200)) == 0.3
    assert busy_share((10, 100), (10, 100)) == 0.0
