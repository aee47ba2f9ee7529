"""The rank statistic by which refusals are compared."""

from itertools import product

import pytest

from bench.negatives import auc, judged, ranks


def test_ranks_count_from_one_and_equals_share_the_middle() -> None:
    assert ranks([20, 40, 10, 40, 30]) == [2.0, 4.5, 1.0, 4.5, 3.0]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([3, 4], [1, 2], 1.0), ([1, 2], [3, 4], 0.0), ([1, 2], [1, 2], 0.5), ([1, 3], [2], 0.5), ([5, 5], [5], 0.5)],
)
def test_known_areas(first: list[float], second: list[float], expected: float) -> None:
    assert expected == auc(first, second)


def test_the_area_is_the_share_of_pairs_in_which_the_first_is_greater() -> None:
    first, second = [7.0, 3.0, 9.0, 3.0, 5.0], [3.0, 8.0, 1.0]
    won = sum((a > b) + (a == b) / 2 for a, b in product(first, second))
    assert won / (len(first) * len(second)) == pytest.approx(auc(first, second))


def test_what_can_be_told_apart_stands_out_from_the_control() -> None:
    found = judged({"quick": [0.001, 0.002] * 50, "slow": [0.003, 0.003] * 50})
    assert found["median_us"] == {"quick": 1500.0, "slow": 3000.0}
    assert found["auc"] == {"quick/slow": 0.0}
    assert found["widest"] == 0.5
    assert found["control_auc"] == {"quick": 0.0, "slow": 0.5}
