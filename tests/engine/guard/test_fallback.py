"""The decision table of an outage, row by row: what opens it, what may be shared in it, and when that ends."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import Seconds, UnixTime
from engine.consent.records import Thumbprint
from engine.guard.config import OnOutage, Policy
from engine.guard.evidence_words import Failure
from engine.guard.fallback import Outage, judge_in_outage, verdict_on_run
from engine.guard.shares import KnownNo, Reason
from tests.support.guard_words import DAY, NOW, consent, known, share

OTHER = Thumbprint(b"x" * 32)


def outage(**changes: Any) -> Outage:
    values: dict[str, Any] = {
        "now": NOW, "lasts": Seconds(60.0), "policy": Policy(), "missing_since": None,
    } | changes  # fmt: skip
    return Outage(**values)


def test_within_every_limit_a_share_is_made() -> None:
    judged = judge_in_outage(share(), known(), outage())
    assert (judged.reason, judged.allowed, judged.consent) == (Reason.LAST_KNOWN, True, consent())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"outage": {"policy": Policy(on_outage=OnOutage.HALT)}}, Reason.HALTED),
        ({"outage": {"policy": Policy(outage_cap=Seconds(0.0))}}, Reason.HALTED),
        ({"outage": {"lasts": Seconds(DAY - 1.0)}}, Reason.LAST_KNOWN),
        ({"outage": {"lasts": Seconds(float(DAY))}}, Reason.OUTAGE_TOO_LONG),
        ({"outage": {"lasts": Seconds(61.0), "policy": Policy(outage_cap=Seconds(61.0))}}, Reason.OUTAGE_TOO_LONG),
        ({"known": {"last_known_until": NOW}}, Reason.OUTAGE_TOO_LONG),
        ({"known": {"last_known_until": UnixTime(NOW + 1)}}, Reason.LAST_KNOWN),
        ({"share": {"thumbprint": OTHER}}, Reason.WRONG_CERTIFICATE),
        ({"outage": {"missing_since": UnixTime(NOW - 101)}}, Reason.DEGRADED),
        ({"outage": {"missing_since": UnixTime(NOW - 102)}}, Reason.LAST_KNOWN),  # confirmed since
        ({"outage": {"rested_at": UnixTime(NOW - 101)}}, Reason.OUTAGE_TOO_LONG),
        ({"outage": {"rested_at": UnixTime(NOW - 102)}}, Reason.LAST_KNOWN),  # said since, and that it may be kept
        ({"known": {"token_expires_at": NOW}}, Reason.LAST_KNOWN),
        (
            {"known": {"token_expires_at": NOW}, "outage": {"policy": Policy(beyond_token_exp=False)}},
            Reason.NOT_ACTIVE,
        ),
        (
            {"known": {"token_expires_at": UnixTime(NOW + 1)}, "outage": {"policy": Policy(beyond_token_exp=False)}},
            Reason.LAST_KNOWN,
        ),
        ({"consent": {"expires_at": NOW}}, Reason.NOT_ACTIVE),
        ({"consent": {"expires_at": UnixTime(NOW + 1)}}, Reason.LAST_KNOWN),
        ({"consent": {"one_off": True}}, Reason.ONE_OFF),
        ({"share": {"dataset_id": "hh-gas"}}, Reason.NOT_COVERED),
        ({"share": {"data_to": UnixTime(NOW + 2 * DAY)}}, Reason.NOT_COVERED),
        ({"known": {"consents": ()}}, Reason.UNKNOWN_IN_OUTAGE),  # all have ended
    ],
)
def test_each_limit(what: dict[str, dict[str, Any]], reason: Reason) -> None:
    token = known(consent(**what.get("consent", {})), **what.get("known", {}))
    judged = judge_in_outage(share(**what.get("share", {})), token, outage(**what.get("outage", {})))
    assert judged.reason is reason
    assert judged.allowed is (reason is Reason.LAST_KNOWN)


def test_what_was_never_known_is_never_shared() -> None:
    assert judge_in_outage(share(), None, outage()).reason is Reason.UNKNOWN_IN_OUTAGE


@pytest.mark.parametrize("policy", [Policy(), Policy(outage_cap=Seconds(0.0))])
def test_a_known_no_stays_one_in_every_outage(policy: Policy) -> None:
    judged = judge_in_outage(share(), None, outage(policy=policy, lasts=Seconds(9 * DAY)), KnownNo(NOW))
    assert (judged.allowed, judged.reason) == (False, Reason.NOT_ACTIVE)


def test_a_consent_that_the_newest_answer_did_not_show_has_limits_of_its_own() -> None:
    """The token's newest answer was about another consent of it."""
    older = consent(as_of=UnixTime(NOW - 500), last_known_until=UnixTime(NOW - 1))
    assert judge_in_outage(share(), known(older), outage()).reason is Reason.OUTAGE_TOO_LONG
    lasting = consent(as_of=UnixTime(NOW - 500), last_known_until=UnixTime(NOW + 1))
    assert judge_in_outage(share(), known(lasting), outage()).allowed
    resting = outage(rested_at=UnixTime(NOW - 200))
    assert judge_in_outage(share(), known(lasting), resting).reason is Reason.OUTAGE_TOO_LONG
    degraded = outage(missing_since=UnixTime(NOW - 200))
    assert judge_in_outage(share(), known(lasting), degraded).reason is Reason.DEGRADED
    assert judge_in_outage(share(), known(lasting, consent()), degraded).consent == consent()


def test_an_enduring_consent_is_taken_before_a_one_off() -> None:
    one_off, enduring = consent(one_off=True), consent(consent_version=9)
    assert judge_in_outage(share(), known(one_off, enduring), outage()).consent == enduring


@given(
    st.integers(-DAY, DAY), st.integers(-DAY, DAY), st.integers(-DAY, DAY), st.floats(0, 2 * DAY), st.booleans(),
    st.integers(-DAY, DAY), st.one_of(st.none(), st.integers(-DAY, DAY)), st.integers(0, DAY),
)  # fmt: skip
def test_nothing_is_shared_beyond_any_limit(
    until: int, expires: int, exp: int, lasts: float, beyond: bool, as_of: int, missing: int | None, cap: int
) -> None:
    """P6, by the limits alone: the conjunction in other words than the table's."""
    token = known(
        consent(expires_at=UnixTime(NOW + expires)), last_known_until=UnixTime(NOW + until),
        token_expires_at=UnixTime(NOW + exp), as_of=UnixTime(NOW + as_of),
    )  # fmt: skip
    policy = Policy(outage_cap=Seconds(float(cap)), beyond_token_exp=beyond)
    since = None if missing is None else UnixTime(NOW + missing)
    judged = judge_in_outage(share(), token, outage(policy=policy, lasts=Seconds(lasts), missing_since=since))
    within = min(until, expires) > 0 and (beyond or exp > 0) and lasts < cap
    assert judged.allowed is (within and (missing is None or as_of > missing))


A, B = "https://a", "https://b"


@pytest.mark.parametrize(
    ("failures", "by_address", "meaning"),
    [
        ([Failure.CONNECT] * 4, {A: Failure.CONNECT}, None),
        ([Failure.TIMEOUT] * 4, {A: Failure.TIMEOUT}, None),
        ([Failure.RESET] * 4, {A: Failure.RESET}, None),
        ([Failure.SERVER] * 4, {A: Failure.SERVER}, None),
        ([Failure.SERVER, Failure.CONNECT] * 2, {A: Failure.SERVER, B: Failure.CONNECT}, None),
        ([Failure.TLS] * 4, {A: Failure.TLS}, Reason.NO_ANSWER),
        ([Failure.NO_ANSWER] * 4, {A: Failure.NO_ANSWER}, Reason.NO_ANSWER),
        ([Failure.TLS, *[Failure.TIMEOUT] * 3], {A: Failure.TIMEOUT}, Reason.NO_ANSWER),
        ([Failure.REFUSED], {A: Failure.REFUSED}, Reason.REFUSED_CALLER),
        ([Failure.TIMEOUT, Failure.REFUSED], {A: Failure.TIMEOUT, B: Failure.REFUSED}, Reason.REFUSED_CALLER),
        ([Failure.TOO_MANY] * 4, {A: Failure.TOO_MANY}, Reason.SLOW_DOWN),
        ([Failure.TOO_MANY, Failure.TIMEOUT] * 2, {A: Failure.TOO_MANY, B: Failure.TIMEOUT}, Reason.UNANSWERED),
        ([Failure.TIMEOUT] * 4, {A: Failure.TIMEOUT, B: None}, Reason.UNANSWERED),  # b has answered since
        ([Failure.BUSY] * 4, {A: Failure.BUSY}, Reason.UNANSWERED),
    ],
)
def test_what_a_run_of_failures_means(
    failures: list[Failure], by_address: dict[str, Failure | None], meaning: Reason | None
) -> None:
    assert verdict_on_run(failures, by_address) is meaning


def test_no_outage_where_one_address_failed_otherwise_than_by_transport_timeout_or_5xx() -> None:
    """Every address's newest failure counts, and no attempt was refused, tampered with, or met a TLS failure."""
    harmless = {Failure.CONNECT, Failure.TIMEOUT, Failure.RESET, Failure.SERVER}
    for run in itertools.product(Failure, repeat=3):
        addresses = {f"https://{n}": failure for n, failure in enumerate(run)}
        assert (verdict_on_run(run, addresses) is None) is (set(run) <= harmless)
