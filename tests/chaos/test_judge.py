"""Made-up histories that break each promise, and their neighbours that keep it."""

from typing import Any

import msgspec
import pytest

from tests.chaos.judge import OUTAGE_CAP, SILENCE, Answer, Consent, Judge

WALL = 1_795_341_600.0
EXPIRES = WALL + 86_400
ENDED = Consent("c", EXPIRES, revoking=10.0, recorded=10.2, recorded_wall=WALL + 10.2, effective=12.0)
STANDS = Consent("c", EXPIRES)


def answer(sent: float, **changes: Any) -> Answer:
    """Active and current, asked at this second and answered a tenth later, as a fresh node would."""
    right = Answer(
        node="node-1",
        edp="edp-1",
        handles_last_known=True,
        token_expires_at=WALL + 600,
        sent=sent,
        received=sent + 0.1,
        sent_wall=WALL + sent,
        received_wall=WALL + sent + 0.1,
        status=200,
        active=True,
        state="current",
        as_of=float(int(WALL + sent)),
        until=EXPIRES,
    )
    return msgspec.structs.replace(right, **changes)


def last_known(sent: float, as_of: float, **changes: Any) -> Answer:
    """Active as of some second of the history."""
    return answer(sent, **{"state": "last_known", "as_of": WALL + as_of, **changes})


def rules(consent: Consent, *answers: Answer) -> list[str]:
    """What they break, in order."""
    judge = Judge()
    return [violation.rule for one in answers for violation in judge.judge(consent, one)]


@pytest.mark.parametrize(
    ("broken", "consent", "one"),
    [
        ("P1 effective", ENDED, answer(12.01, as_of=WALL + 10)),
        (
            "P1 committed",
            msgspec.structs.replace(ENDED, effective=float("inf")),
            answer(10.2 + SILENCE + 0.01, as_of=WALL + 10),
        ),
        ("P2", STANDS, answer(50.0, as_of=WALL + 50 - SILENCE - 1.01)),
        ("P6 heard", ENDED, last_known(11.5, as_of=11)),
        ("P6 period", STANDS, answer(86_400.0)),
        ("P6 period", STANDS, answer(1.0, until=EXPIRES + 1)),
        ("P6 cap", Consent("c", EXPIRES + 86_400), last_known(OUTAGE_CAP + 50, as_of=49, until=WALL + OUTAGE_CAP + 49)),
        ("P6 cap", STANDS, last_known(9.0, as_of=8, until=WALL + 8.5)),
        ("P6 unasked", STANDS, last_known(9.0, as_of=5, handles_last_known=False)),
        ("wrong inactive", STANDS, answer(5.0, active=False)),
        ("wrong inactive", ENDED, answer(9.8, active=False)),
        ("an answer nobody should get", STANDS, answer(5.0, status=401, active=False)),
        ("an answer nobody should get", STANDS, answer(5.0, state="blind")),
    ],
)
def test_a_broken_promise_is_found(broken: str, consent: Consent, one: Answer) -> None:
    assert broken in rules(consent, one)


def test_an_end_that_a_node_knew_and_forgot_is_found() -> None:
    denied = answer(10.1, active=False)
    assert rules(ENDED, denied, last_known(10.3, as_of=5)) == ["P6 forgotten"]
    assert rules(ENDED, denied, last_known(10.3, as_of=5, node="node-2")) == []
    assert rules(ENDED, denied, last_known(10.15, as_of=5)) == []  # asked before the no had come


@pytest.mark.parametrize(
    ("consent", "one"),
    [
        (STANDS, answer(5.0)),
        (STANDS, answer(5.0, as_of=WALL + 2)),  # asked up to a second after the second it names
        (ENDED, answer(11.99, as_of=WALL + 10)),  # before it was effective, within the silence
        (ENDED, last_known(60.0, as_of=10)),  # says that it knows nothing newer
        (ENDED, answer(60.0, active=False)),
        (ENDED, answer(10.0, active=False)),  # somebody is revoking: nobody knows when it was committed
        (STANDS, answer(5.0, status=503, active=False)),
        (STANDS, answer(601.0, active=False)),  # the token is over
        (Consent("c", WALL + 5), answer(5.0, active=False)),
    ],
)
def test_a_kept_promise_is_not_complained_about(consent: Consent, one: Answer) -> None:
    assert rules(consent, one) == []


def test_what_is_lawful_and_worth_counting_is_counted() -> None:
    judge = Judge()
    judge.judge(ENDED, last_known(60.0, as_of=10))
    judge.judge(ENDED, answer(60.0, active=False))
    judge.judge(ENDED, answer(11.0, active=False))
    assert (judge.judged, judge.asked_after_effect, judge.exposed, judge.violations) == (3, 2, 1, [])
