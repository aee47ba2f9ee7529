"""Plans are the same for the same seed, bounded, and leave nothing out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import QUIET_AFTER, QUIET_BEFORE, Targets, What, draw

TARGETS = Targets(
    ("node-1/worker", "node-1/feeder", "node-1/supervisor", "admin", "redis"),
    ("node-1 > redis", "edps > node-1"),
    ("redis",),
)


@given(st.integers(0, 2**32), st.floats(12, 600))
def test_plans_are_bounded_and_repeatable(seed: int, seconds: float) -> None:
    plan = draw(seed, seconds, TARGETS)
    assert plan == draw(seed, seconds, TARGETS)
    assert [fault.number for fault in plan] == list(range(1, len(plan) + 1))
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    assert all(QUIET_BEFORE <= fault.at <= fault.until <= seconds - QUIET_AFTER + 0.01 for fault in plan)
    assert all(0 <= fault.share < 1 for fault in plan)


def test_five_minutes_bring_every_fault_and_some_together() -> None:
    plan = draw(1, 300, TARGETS)
    assert {(fault.what, fault.target) for fault in plan} == set(TARGETS.cards())
    assert any(later.at < earlier.until for earlier, later in pairwise(plan))
    assert draw(2, 300, TARGETS) != plan


def test_every_way_to_break_is_used() -> None:
    assert {what for what, _ in TARGETS.cards()} == set(What)
