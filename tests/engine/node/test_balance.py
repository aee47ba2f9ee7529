"""Workers that share one accept queue hold back for each other, and for nobody who does not react."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.node.balance import LONGEST, SPARE_SLOTS, Balance, Page, hold_back

COUNTS = st.integers(0, 100_000)
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page(4)
    yield page
    page.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workers(page: Page, clock: Clock) -> Iterator[list[Balance]]:
    made = []
    for _ in range(3):
        slot = page.take()
        assert slot is not None
        made.append(Balance(slot, clock))
    yield made
    for each in made:
        each.close()


@UNTIMED
@given(COUNTS, st.lists(COUNTS))
def test_a_moment_is_short_and_never_negative(mine: int, others: list[int]) -> None:
    assert 0.0 <= hold_back(mine, others) <= LONGEST


@UNTIMED
@given(COUNTS, st.lists(COUNTS))
def test_who_has_the_fewest_does_not_wait(least: int, others: list[int]) -> None:
    assert hold_back(least, [least + other for other in others]) == 0.0


@UNTIMED
@given(COUNTS, COUNTS, st.lists(COUNTS, min_size=1))
def test_who_has_more_waits_no_shorter(one: int, more: int, others: list[int]) -> None:
    assert hold_back(one, others) <= hold_back(one + more, others)


@UNTIMED
@given(st.integers(0, 63), st.integers(1, 1000))
def test_of_few_connections_each_one_counts(least: int, excess: int) -> None:
    assert hold_back(least + excess, [least]) > 0.0


def test_of_many_connections_one_more_makes_no_difference() -> None:
    assert hold_back(6401, [6400]) == 0.0
    assert hold_back(6600, [6400]) == LONGEST


@UNTIMED
@given(st.lists(st.integers(0, 3), max_size=200))
def test_newcomers_spread_evenly_whoever_wakes_first(quickest: list[int]) -> None:
    """The one with the shortest moment takes the newcomer; among equals, the one that wakes first."""
    counts = [0, 0, 0, 0]
    for first in quickest:
        order = [*range(first, 4), *range(first)]
        taker = min(order, key=lambda worker: hold_back(counts[worker], counts))
        counts[taker] += 1
    assert max(counts) - min(counts) <= 1


def test_a_worker_alone_never_waits(workers: list[Balance]) -> None:
    assert workers[0].wait(1000) == 0.0


def test_the_one_with_more_waits_for_the_one_with_fewer(workers: list[Balance]) -> None:
    first, second, _ = workers
    second.now_has(3)
    assert first.wait(5) == hold_back(5, [3]) > 0.0
    assert second.wait(3) == 0.0


def test_a_frozen_worker_is_waited_for_no_longer_than_a_moment_in_all(workers: list[Balance], clock: Clock) -> None:
    first, frozen, _ = workers
    frozen.now_has(0)
    count, waited = 0, 0.0
    while (moment := first.wait(count + 1)) > 0.0:
        count += 1
        waited += moment
        clock.now += moment
    assert 0.0 < waited < 2 * LONGEST
    assert [first.wait(count) for count in (9, 10, 100)] == [0.0, 0.0, 0.0]


def test_the_others_are_still_waited_for(workers: list[Balance], clock: Clock) -> None:
    first, frozen, third = workers
    frozen.now_has(0)
    third.now_has(4)
    clock.now += first.wait(8)
    third.now_has(5)
    assert first.wait(8) == hold_back(8, [5])


def test_a_worker_that_wakes_up_counts_again(workers: list[Balance], clock: Clock) -> None:
    first, frozen, _ = workers
    frozen.now_has(0)
    clock.now += first.wait(8)
    assert first.wait(8) == 0.0
    assert frozen.wait(0) == 0.0
    assert first.wait(8) > 0.0


def test_a_second_socket_in_the_same_moment_waits_as_well(workers: list[Balance], clock: Clock) -> None:
    first, second, _ = workers
    second.now_has(0)
    assert first.wait(8) == LONGEST
    clock.now += LONGEST / 2
    assert first.wait(8) == LONGEST
    clock.now += LONGEST / 2
    assert first.wait(8) == 0.0  # asked again or not: the moment that began first is over


def test_a_worker_that_has_just_come_is_waited_for(workers: list[Balance]) -> None:
    first, fresh, _ = workers
    assert first.wait(4) == 0.0
    fresh.join()
    assert first.wait(4) == hold_back(4, [0])


def test_joining_late_does_not_hide_what_was_accepted(workers: list[Balance], page: Page) -> None:
    workers[0].now_has(3)
    workers[0].join()
    assert page.connections() == [3]


def test_nobody_waits_for_a_worker_that_has_left(workers: list[Balance]) -> None:
    first, draining, _ = workers
    draining.leave()
    draining.now_has(1)
    assert first.wait(8) == 0.0


def test_nobody_waits_for_a_dead_worker_and_its_slot_goes_to_the_next(page: Page, clock: Clock) -> None:
    slot, other = page.take(), page.take()
    assert slot is not None
    assert other is not None
    dead, first = Balance(slot, clock), Balance(other, clock)
    dead.now_has(0)
    dead.close()
    assert page.connections() == [0]
    page.give_back(slot)
    assert first.wait(8) == 0.0
    assert page.connections() == [8]
    assert page.take() == slot
    first.close()


def test_the_page_says_when_it_is_full(page: Page) -> None:
    assert len([slot for _ in range(4 + SPARE_SLOTS) if (slot := page.take())]) == 4 + SPARE_SLOTS
    assert page.take() is None


def test_signs_of_life_go_round(workers: list[Balance], page: Page) -> None:
    first, _, _ = workers
    first._words[first._mine + 1] = (1 << 32) - 1
    first.now_has(7)
    assert (first._words[first._mine + 1], page.connections()) == (0, [7])
