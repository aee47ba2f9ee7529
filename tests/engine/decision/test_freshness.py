"""The freshness table: every finding, its edges, and clocks that move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import OnSilence, PolicyRecord
from engine.consent.recovery import Recovery
from engine.decision.freshness import (
    MAX_SILENCE,
    SERVED,
    STATES,
    Bound,
    Finding,
    Freshness,
    FreshnessState,
    freshness_of,
    under_recovery,
)
from tests.support.decision_vectors import NOW, OUTAGE_CAP, cases

POLICY = PolicyRecord()
ASKED = BootTime(5_000.0)  # when, on the boot clock, the newest answered question was asked


def bound(*, boot_id: str = "boot-1", as_of: int = NOW) -> Bound:
    return Bound("incarnation", 7, boot_id, BootTime(ASKED + MAX_SILENCE), UnixTime(as_of))


def judged(boot: float, now: int = NOW, *, boot_id: str = "boot-1", policy: PolicyRecord = POLICY) -> Freshness:
    return freshness_of(bound(), policy, boot_id=boot_id, boot=BootTime(boot), now=UnixTime(now))


def test_within_the_silence_a_view_is_current() -> None:
    assert judged(ASKED).state is FreshnessState.CURRENT
    assert judged(ASKED + 1.999).state is FreshnessState.CURRENT


def test_at_the_very_end_of_the_silence_a_view_is_last_known() -> None:
    found = judged(ASKED + MAX_SILENCE)
    assert found == Freshness(FreshnessState.LAST_KNOWN, UnixTime(NOW), UnixTime(NOW + OUTAGE_CAP - 2))


def test_at_the_cap_a_view_is_blind() -> None:
    assert judged(ASKED + OUTAGE_CAP - 0.001, NOW + OUTAGE_CAP).state is FreshnessState.LAST_KNOWN
    assert judged(ASKED + OUTAGE_CAP, NOW + OUTAGE_CAP).state is FreshnessState.BLIND


def test_the_cap_is_the_policy_s() -> None:
    short = PolicyRecord(outage_cap=Seconds(60.0))
    assert judged(ASKED + 59, policy=short).state is FreshnessState.LAST_KNOWN
    assert judged(ASKED + 60, policy=short).state is FreshnessState.BLIND


@pytest.mark.parametrize("missing", [None, bound(boot_id=""), bound(as_of=0)])
def test_a_node_that_was_never_answered_is_blind(missing: Bound | None) -> None:
    found = freshness_of(missing, POLICY, boot_id="boot-1", boot=ASKED, now=NOW)
    assert found.state is FreshnessState.BLIND


def test_after_a_boot_a_view_is_never_current() -> None:
    assert judged(ASKED, NOW, boot_id="boot-2").state is FreshnessState.LAST_KNOWN


def test_after_a_boot_the_wall_clock_tells_the_age() -> None:
    assert judged(3.0, NOW + OUTAGE_CAP - 1, boot_id="boot-2").state is FreshnessState.LAST_KNOWN
    assert judged(3.0, NOW + OUTAGE_CAP, boot_id="boot-2").state is FreshnessState.BLIND


def test_after_a_boot_with_a_wall_clock_that_went_backwards_no_age_can_be_told() -> None:
    assert judged(3.0, NOW - 1, boot_id="boot-2").state is FreshnessState.BLIND


def test_a_bound_from_the_future_of_this_boot_is_not_believed() -> None:
    assert judged(ASKED - 0.001).state is FreshnessState.BLIND


def test_within_one_boot_the_wall_clock_changes_nothing_but_the_end() -> None:
    early = judged(ASKED + 3600, NOW - 500_000)
    assert early.state is FreshnessState.LAST_KNOWN
    assert early.last_known_until == NOW - 500_000 + OUTAGE_CAP - 3600  # never more than what the cap leaves


@given(
    same_boot=st.booleans(),
    boot=st.floats(0, 1e7),
    now=st.integers(NOW - 10_000_000, NOW + 10_000_000),
    cap=st.floats(1.0, 200_000.0),
)
def test_current_means_asked_less_than_the_silence_ago_on_this_boot(
    same_boot: bool, boot: float, now: int, cap: float
) -> None:
    policy = PolicyRecord(outage_cap=Seconds(cap))
    found = judged(boot, now, boot_id="boot-1" if same_boot else "boot-2", policy=policy)
    age = boot - ASKED
    if found.state is FreshnessState.CURRENT:
        assert same_boot
        assert -1e-6 <= age <= MAX_SILENCE + 1e-6
    if found.state is FreshnessState.LAST_KNOWN:
        told = age if same_boot else now - NOW
        assert told + 1e-6 >= 0
        assert told <= cap + 1e-6
        assert found.last_known_until <= NOW + cap
        assert found.last_known_until <= now + cap


def test_the_tables_leave_nothing_out() -> None:
    assert set(STATES) == set(Finding)
    assert len(SERVED) == len(FreshnessState) * len(OnSilence) * 2


def test_only_a_registered_provider_under_the_policy_continue_is_served_a_last_known_view() -> None:
    served = {row for row, answered in SERVED.items() if answered and row[0] is not FreshnessState.CURRENT}
    assert served == {(FreshnessState.LAST_KNOWN, OnSilence.CONTINUE, True)}
    assert not any(answered for (state, _, _), answered in SERVED.items() if state is FreshnessState.BLIND)


def test_the_vectors_bounds_bring_a_node_into_the_states_they_name() -> None:
    for case in cases():
        made = case.bound(NOW, BootTime(200_000.0), "boot-1", "i", 1)
        found = freshness_of(made, case.policy(), boot_id="boot-1", boot=BootTime(200_000.0), now=NOW)
        assert found == case.freshness(NOW) or found.state is case.node.state is FreshnessState.BLIND


RECOVERY = Recovery(7, UnixTime(NOW - 600), UnixTime(NOW - 30))


@given(st.integers(NOW - 2 * OUTAGE_CAP, NOW + 60), st.floats(ASKED, ASKED + 5), st.integers(NOW - 1, NOW + 60))
def test_while_the_ledger_recovers_nothing_is_current_and_no_age_is_flattered(
    gap_from: int, boot: float, now: int
) -> None:
    found = freshness_of(
        under_recovery(bound(), Recovery(7, UnixTime(gap_from), UnixTime(gap_from + 60))),
        POLICY,
        boot_id="boot-1",
        boot=BootTime(boot),
        now=UnixTime(now),
    )
    assert found.state is not FreshnessState.CURRENT
    assert found.as_of <= gap_from or found.state is FreshnessState.BLIND
    if found.state is FreshnessState.LAST_KNOWN:
        assert now < gap_from + OUTAGE_CAP
        assert found.last_known_until <= gap_from + OUTAGE_CAP


def test_while_the_ledger_recovers_a_node_that_is_answered_is_last_known_as_of_the_gap() -> None:
    found = freshness_of(under_recovery(bound(), RECOVERY), POLICY, boot_id="boot-1", boot=ASKED, now=NOW)
    assert found == Freshness(FreshnessState.LAST_KNOWN, UnixTime(NOW - 600), UnixTime(NOW - 600 + OUTAGE_CAP))


def test_a_node_that_was_cut_off_before_the_gap_is_no_newer_than_it_was() -> None:
    held = under_recovery(bound(as_of=NOW - 900), RECOVERY)
    assert held.as_of == NOW - 900


@pytest.mark.parametrize("blind", [bound(boot_id=""), bound(as_of=0)])
def test_recovery_makes_no_blind_node_see(blind: Bound) -> None:
    held = under_recovery(blind, RECOVERY)
    assert freshness_of(held, POLICY, boot_id="boot-1", boot=ASKED, now=NOW).state is FreshnessState.BLIND


def test_a_live_ledger_leaves_the_bound_alone() -> None:
    assert under_recovery(bound(), None) == bound()
