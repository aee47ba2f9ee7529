"""Answers in bytes: what the vectors pin, and the shape that RFC 7662 section 2.2 asks for."""

import msgspec
import pytest

from engine.clock import UnixTime
from engine.decision.answers import INACTIVE, active_answer, render
from engine.decision.decide import decide
from engine.decision.questions import Active, Inactive, Reason
from engine.tokens.claims import Confirmation
from tests.support.decision_vectors import METER_KEY, NOW, cases


def an_answer() -> Active:
    case = next(case for case in cases() if case.expect.answer == "active")
    step = decide(
        case.question(NOW), case.verified(NOW, METER_KEY), case.records(NOW, METER_KEY), case.freshness(NOW), NOW
    )
    assert isinstance(step, Active)
    return step


@pytest.mark.parametrize("reason", Reason)
def test_every_no_is_the_same_sixteen_bytes(reason: Reason) -> None:
    assert render(Inactive(reason)) == INACTIVE == b'{"active":false}'
    assert len(INACTIVE) == 16


def test_times_are_whole_numbers_and_no_person_is_named() -> None:
    members = msgspec.json.decode(render(an_answer()))
    assert members["active"] is True
    assert all(type(members[name]) is int for name in ("exp", "iat", "ccs_as_of", "ccs_last_known_until"))
    assert {"username", "scope", "purpose"}.isdisjoint(members)


def test_a_token_bound_both_ways_shows_both() -> None:
    answer = an_answer()
    claims = msgspec.structs.replace(answer.token.claims, cnf=Confirmation("x" * 43, "j" * 43))
    both = msgspec.structs.replace(answer, token=msgspec.structs.replace(answer.token, claims=claims))
    shown = active_answer(both)
    assert (shown.token_type, shown.cnf) == ("DPoP", Confirmation("x" * 43, "j" * 43))


def test_an_end_that_only_the_consent_has_is_shown() -> None:
    answer = an_answer()
    (grant, record) = answer.grants[0]
    cut = msgspec.structs.replace(record, data_to=UnixTime(NOW - 86_400))
    shown = active_answer(msgspec.structs.replace(answer, grants=((grant, cut),)))
    assert shown.authorization_details[0].data_to == "2026-11-21T09:30:00Z"


def test_an_open_window_stays_open_when_only_the_start_was_cut() -> None:
    answer = an_answer()
    (grant, record) = answer.grants[0]
    cut = msgspec.structs.replace(record, data_from=UnixTime(NOW - 86_400))
    detail = active_answer(msgspec.structs.replace(answer, grants=((grant, cut),))).authorization_details[0]
    assert (detail.data_from, detail.data_to) == ("2026-11-21T09:30:00Z", None)


def test_an_expiry_that_came_nearer_is_shown() -> None:
    answer = an_answer()
    (grant, record) = answer.grants[0]
    nearer = msgspec.structs.replace(record, expires_at=UnixTime(NOW + 86_400))
    detail = active_answer(msgspec.structs.replace(answer, grants=((grant, nearer),))).authorization_details[0]
    assert detail.consent_expires_at == "2026-11-23T09:30:00Z"


def test_no_outage_lengthens_a_consent() -> None:
    answer = an_answer()
    for ends_at, told in (
        (answer.freshness.last_known_until - 1, answer.freshness.last_known_until - 1),
        (answer.freshness.last_known_until + 1, answer.freshness.last_known_until),
    ):
        bounded = msgspec.structs.replace(answer, consent_ends_at=UnixTime(ends_at))
        assert active_answer(bounded).ccs_last_known_until == told > answer.expires_at


def test_the_earliest_end_of_the_consents_shown_counts() -> None:
    case = next(case for case in cases() if case.name == "two consents are both shown, in the token's order")
    step = decide(
        case.question(NOW), case.verified(NOW, METER_KEY), case.records(NOW, METER_KEY), case.freshness(NOW), NOW
    )
    assert isinstance(step, Active)
    ends = [min(grant.expires_at, record.expires_at) for grant, record in step.grants]
    assert len(ends) == 2
    assert step.consent_ends_at == min(ends)
