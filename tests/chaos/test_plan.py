"""Plans are the same for the same seed, bounded, and leave nothing out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import (
    ALL_EDPS,
    DOOR_FAULTS,
    OUTAGE_WAYS,
    OUTAGES,
    QUIET_AFTER,
    QUIET_BEFORE,
    SHORTEST_OUTAGE,
    WAYS_MIXED,
    Targets,
    What,
    draw,
    is_outage,
    with_outages,
)

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
    used = {what for what, _ in TARGETS.cards()} | {what for what, _ in OUTAGE_WAYS}
    assert used == set(What)
    assert set(WAYS_MIXED) < used


def test_only_links_to_nodes_answer_in_their_place() -> None:
    assert {target for what, target in TARGETS.cards() if what in DOOR_FAULTS} == {"edps > node-1"}


def test_guards_circuits_have_time_to_close_between_outages() -> None:
    outages = [fault for fault in with_outages((), 1, 900, pace=1.0) if is_outage(fault)]
    assert len(outages) == 3
    assert abs(sum(fault.until - fault.at for fault in outages) - 90) < 0.1
    assert len([fault for fault in with_outages((), 1, 900) if is_outage(fault)]) == 6


def test_a_plan_may_be_spread_out() -> None:
    assert len(draw(1, 600, TARGETS, 3.0)) < len(draw(1, 600, TARGETS)) / 2


@given(st.integers(0, 2**32), st.floats(12, 1_000))
def test_outages_are_planned_for_a_tenth_of_a_run(seed: int, seconds: float) -> None:
    plan = with_outages(draw(seed, seconds, TARGETS), seed, seconds)
    assert plan == with_outages(draw(seed, seconds, TARGETS), seed, seconds)
    assert [fault.number for fault in plan] == list(range(1, len(plan) + 1))
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    outages = [fault for fault in plan if is_outage(fault)]
    lasted = sum(fault.until - fault.at for fault in outages)
    assert abs(lasted - max(OUTAGES * seconds, SHORTEST_OUTAGE)) < 0.1 * len(outages)
    assert all(QUIET_BEFORE <= fault.at < fault.until <= seconds - QUIET_AFTER + 0.01 for fault in outages)
    assert all(earlier.until < later.at for earlier, later in pairwise(outages))


@given(st.integers(0, 2**32))
def test_nothing_mends_a_node_in_an_outage(seed: int) -> None:
    plan = with_outages(draw(seed, 300, TARGETS), seed, 300)
    outages = [fault for fault in plan if is_outage(fault)]
    of_nodes = [fault for fault in plan if fault.target.startswith("node-1/") or fault.target == "edps > node-1"]
    assert not any(fault.at < out.until and fault.until > out.at for fault in of_nodes for out in outages)
    assert any(fault.target == "redis" for fault in plan)


def test_a_run_of_some_minutes_has_outages_of_several_kinds() -> None:
    kinds = {(fault.what, fault.target) for fault in with_outages((), 1, 900) if is_outage(fault)}
    assert kinds == set(OUTAGE_WAYS)
    assert (What.BLACK_HOLE, ALL_EDPS) in kinds
