"""What is said again is what deciding anew would say: freshness, answers, and what ends them."""

import math

from hypothesis import given
from hypothesis import strategies as st

from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import PolicyRecord
from engine.decision.answers import fresh_part
from engine.decision.freshness import MAX_SILENCE, Bound, Freshness, FreshnessState, freshness_of
from engine.listener.known import Known, KnownYes
from engine.replica.reader import Moment

BOOT = "boot-1"
NOW = UnixTime(1_795_341_600)
UP = 5_000.0


def moment(asked_at: float, as_of: int = NOW, cap: float = 86_400.0, boot_id: str = BOOT) -> Moment:
    bound = Bound("incarnation-1", 7, boot_id, BootTime(asked_at + MAX_SILENCE), UnixTime(as_of))
    return Moment(1, bound, PolicyRecord(outage_cap=Seconds(cap)))


def anew(of: Moment, now: int, boot: float) -> Freshness | None:
    freshness = freshness_of(of.bound, of.policy, boot_id=BOOT, boot=BootTime(boot), now=UnixTime(now))
    return freshness if freshness.state is FreshnessState.CURRENT else None


@given(
    steps=st.lists(st.floats(0.0, 0.7), max_size=12),
    drift=st.floats(-1.5, 1.5),
    fraction=st.floats(0.0, 0.999),
    cap=st.sampled_from([86_400.0, 3_600.5, 0.75]),
)
def test_freshness_is_what_working_it_out_anew_gives(
    steps: list[float], drift: float, fraction: float, cap: float
) -> None:
    known, at = Known(4, BOOT), moment(UP, cap=cap)
    boot = UP
    for step in steps:
        boot += step
        now = math.floor(NOW + fraction + drift + boot - UP)
        assert known.freshness(at, UnixTime(now), BootTime(boot)) == anew(at, now, boot)


def test_freshness_ends_with_the_bound_and_not_a_moment_later() -> None:
    known, at = Known(4, BOOT), moment(UP)
    last = math.nextafter(UP + MAX_SILENCE, 0.0)
    assert known.freshness(at, NOW, BootTime(UP)) is not None
    assert known.freshness(at, NOW, BootTime(last)) is not None
    assert known.freshness(at, NOW, BootTime(UP + MAX_SILENCE)) is None
    assert known.freshness(at, NOW, BootTime(UP)) is not None


def test_a_clock_that_went_back_and_another_boot_are_not_fresh() -> None:
    known = Known(4, BOOT)
    assert known.freshness(moment(UP), NOW, BootTime(UP)) is not None
    assert known.freshness(moment(UP), NOW, BootTime(UP - 1.0)) is None
    assert known.freshness(moment(UP, boot_id="another"), NOW, BootTime(UP)) is None


def test_no_bound_is_never_fresh() -> None:
    assert Known(4, BOOT).freshness(Moment(1, None, PolicyRecord()), NOW, BootTime(UP)) is None


@given(ends_in=st.integers(1, 200_000))
def test_the_last_members_are_of_this_moment_and_cut_to_the_consent(ends_in: int) -> None:
    known, at = Known(4, BOOT), moment(UP)
    freshness = known.freshness(at, NOW, BootTime(UP + 0.5))
    assert freshness is not None
    ends_at = UnixTime(NOW + ends_in)
    assert known.body(known_yes(ends_at), freshness) == b'{"active":true,' + fresh_part(freshness, ends_at)


def known_yes(ends_at: UnixTime) -> KnownYes:
    nothing: object = None
    return KnownYes(1, "edp-1", nothing, nothing, NOW, ends_at, ends_at, 1, (), b'{"active":true,')  # type: ignore[arg-type] - only its ends and bytes are looked at
