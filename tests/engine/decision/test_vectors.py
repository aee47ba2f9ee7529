"""Every decision vector, on the pure core."""

import msgspec
import pytest

from engine.consent.records import ClientId, ConsentId, consent_key
from engine.decision.answers import render
from engine.decision.decide import decide
from engine.decision.questions import Active, ClaimFirst, Inactive, LookFurther, Reason, Step, Unavailable
from tests.support.decision_vectors import METER_KEY, NOW, Case, cases

CASES = cases()


def keys(case: Case) -> tuple[bytes, ...]:
    return tuple(consent_key(ConsentId(case.consents[name].consent_id)) for name in case.expect.consents)


def run(case: Case) -> Step:
    return decide(
        case.question(NOW), case.verified(NOW, METER_KEY), case.records(NOW, METER_KEY), case.freshness(NOW), NOW
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}: {case.name}")
def test_the_core_answers_as_the_vector_says(case: Case) -> None:
    step = run(case)
    match case.expect.answer:
        case "active":
            assert isinstance(step, Active)
            assert render(step) == case.body(NOW)
        case "inactive":
            assert step == Inactive(Reason(case.expect.reason))
            assert render(step) == b'{"active":false}' == case.body(NOW)
        case "unavailable":
            assert isinstance(step, Unavailable)
            assert step.retry_after > 0
        case "look_further":
            assert step == LookFurther(keys(case))
        case "claim_first":
            assert case.expect.share_id is not None
            assert step == ClaimFirst(keys(case)[0], ClientId(case.ask.caller), case.expect.share_id)


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_every_yes_in_the_vectors_is_json_with_its_bytes_pinned() -> None:
    for case in CASES:
        assert (case.expect.json is not None) == (case.expect.answer == "active"), case.name
        assert msgspec.json.decode(case.body(NOW))["active"] is (case.expect.answer == "active")


def test_most_vectors_can_drive_a_worker() -> None:
    worker = cases("worker")
    assert len(worker) >= 60
    assert {case.status for case in worker} == {200, 503}
