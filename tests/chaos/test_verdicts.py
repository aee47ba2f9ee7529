"""Made-up verdicts that break each promise, and their neighbours that keep it; and what a true answer is."""

from typing import Any

import msgspec
import pytest

from tests.chaos.judge import SILENCE, Consent
from tests.chaos.verdicts import DECIDED, NEVER_RIGHT, GuardJudge, Said, Verdict, is_decided, is_true, said_by

WALL = 1_795_341_600.0
EXPIRES = WALL + 86_400
ENDED = Consent("c", EXPIRES, revoking=10.0, recorded=10.2, recorded_wall=WALL + 10.2, effective=12.0, end_seq=40)
STANDS = Consent("c", EXPIRES)


def verdict(sent: float, **changes: Any) -> Verdict:
    """Shared by a current answer, asked at this second; the guard was told nothing of the end."""
    right = Verdict(
        guard="guard-1",
        token_expires_at=WALL + 600,
        sent=sent,
        received=sent + 0.1,
        sent_wall=WALL + sent,
        received_wall=WALL + sent + 0.1,
        told_seq=39,
        allowed=True,
        reason="consented",
        freshness="current",
        as_of=float(int(WALL + sent)),
    )
    return msgspec.structs.replace(right, **changes)


def known(sent: float, **changes: Any) -> Verdict:
    """Shared on what was known at the start."""
    return verdict(sent, **{"reason": "last_known", "freshness": "", "as_of": WALL, **changes})


def denied(sent: float, reason: str = "not_active") -> Verdict:
    return verdict(sent, allowed=False, reason=reason, freshness="", as_of=0.0)


def rules(consent: Consent, one: Verdict) -> list[str]:
    return [violation.rule for violation in GuardJudge().judge(consent, one)]


@pytest.mark.parametrize(
    ("broken", "consent", "one"),
    [
        ("P4 told", ENDED, known(11.0, told_seq=40)),
        ("P4 told", ENDED, verdict(11.0, told_seq=41, freshness="last_known", as_of=WALL + 10)),
        ("P1 guard", ENDED, verdict(12.01, as_of=WALL + 10)),
        ("P1 guard", msgspec.structs.replace(ENDED, effective=1e9), verdict(10.2 + SILENCE + 0.01, as_of=WALL + 10)),
        ("P6 guard", ENDED, known(11.5, as_of=WALL + 11)),
        ("P6 guard", STANDS, known(86_400.0)),
        ("wrong inactive", STANDS, denied(5.0)),
        ("wrong inactive", ENDED, denied(9.8)),
        *(("wrong inactive", STANDS, denied(5.0, reason)) for reason in DECIDED),
        *(("wrong inactive", ENDED, denied(50.0, reason)) for reason in NEVER_RIGHT),
        ("an answer nobody should get", STANDS, verdict(5.0, status=401, allowed=False)),
        ("an answer nobody should get", STANDS, verdict(5.0, reason="degraded")),
    ],
)
def test_a_broken_promise_is_found(broken: str, consent: Consent, one: Verdict) -> None:
    assert broken in rules(consent, one)


@pytest.mark.parametrize(
    ("consent", "one"),
    [
        (STANDS, verdict(5.0)),
        (STANDS, known(5.0, told_seq=1_000)),
        (ENDED, verdict(11.99, as_of=WALL + 10)),  # before it was effective, within the silence
        (ENDED, known(60.0)),  # in an outage, and the end has not come
        (ENDED, verdict(60.0, freshness="last_known", as_of=WALL + 10)),
        (msgspec.structs.replace(ENDED, end_seq=0), known(60.0, told_seq=1_000)),  # nobody knows where its end stands
        (ENDED, denied(60.0)),
        (ENDED, denied(10.0)),  # somebody is revoking
        (STANDS, denied(601.0)),  # the token is over
        (Consent("c", WALL + 5), denied(5.0)),
        *((STANDS, denied(5.0, reason)) for reason in ("unanswered", "unknown_in_outage", "degraded", "no_answer")),
        (STANDS, verdict(5.0, status=503, allowed=False)),
    ],
)
def test_a_kept_promise_is_not_complained_about(consent: Consent, one: Verdict) -> None:
    assert rules(consent, one) == []


def test_what_is_lawful_and_worth_counting_is_counted() -> None:
    judge = GuardJudge()
    for one in (known(60.0), known(5.0), verdict(5.0), denied(60.0)):
        judge.judge(ENDED, one)
    judge.judge(ENDED, denied(61.0))
    judge.judge(ENDED, msgspec.structs.replace(denied(62.0), told_seq=40))
    counts = (judge.judged, judge.fallback_shares, judge.exposed, judge.asked_after_told)
    assert (counts, judge.violations) == ((6, 2, 1, 1), [])


@pytest.mark.parametrize(
    ("said", "one"),
    [
        (Said.CONSENTED, verdict(1.0)),
        (Said.LAST_KNOWN, known(1.0)),
        (Said.DENIED, denied(1.0)),
        (Said.UNDECIDED, denied(1.0, "unknown_in_outage")),
        (Said.NOTHING, verdict(1.0, status=503, allowed=False)),
    ],
)
def test_verdicts_are_of_five_kinds(said: Said, one: Verdict) -> None:
    assert said_by(one) is said
    assert is_decided(said) == (said not in (Said.UNDECIDED, Said.NOTHING))


@pytest.mark.parametrize(
    ("yes", "no", "consent", "sent"),
    [
        (True, False, STANDS, 5.0),
        (True, False, ENDED, 9.8),
        (True, True, ENDED, 11.0),  # its end is becoming effective
        (False, True, ENDED, 12.01),
        (False, True, Consent("c", WALL + 5), 5.0),
    ],
)
def test_an_answer_is_true_if_it_agrees_with_what_stood(yes: bool, no: bool, consent: Consent, sent: float) -> None:
    assert (is_true(consent, verdict(sent), yes=True), is_true(consent, verdict(sent), yes=False)) == (yes, no)
