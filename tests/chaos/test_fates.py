"""P7 by made-up ledgers: what was acknowledged is there once, what was refused is not."""

import pytest

from tests.chaos.fates import GRANTED, REVOKED, Event, Write, settle

LEDGER = (
    Event(1, "ledger.created", "ledger"),
    Event(2, GRANTED, "a"),
    Event(3, REVOKED, "c-a"),
    Event(4, GRANTED, "b"),
)
KEPT = (
    Write(GRANTED, "a", attempts=1, seq=2),
    Write(REVOKED, "c-a", attempts=3, seq=3),
    Write(GRANTED, "b", attempts=1, unanswered=1),
    Write(GRANTED, "never", attempts=1, unanswered=1),
    Write(REVOKED, "c-z", attempts=1, refusal="409"),
)


def test_fates_are_counted() -> None:
    fates = settle(KEPT, LEDGER)
    assert (fates.acknowledged, fates.repeated, fates.unknown_done, fates.unknown_not_done) == (2, 1, 1, 1)
    assert (fates.refused, fates.lost, fates.violations) == (1, 0, ())


@pytest.mark.parametrize(
    ("broken", "write", "events"),
    [
        ("P7 lost", Write(GRANTED, "x", attempts=1, seq=5), LEDGER),
        ("P7 lost", Write(GRANTED, "a", attempts=1, seq=4), LEDGER),  # another write stands where it was said to
        ("P7 doubled", Write(GRANTED, "b", attempts=2, seq=4), (*LEDGER, Event(5, GRANTED, "b"))),
        ("P7 doubled", Write(GRANTED, "b", attempts=1, unanswered=1), (*LEDGER, Event(5, GRANTED, "b"))),
        ("P7 refused", Write(GRANTED, "b", attempts=1, refusal="503"), LEDGER),
        ("P7 gap", KEPT[0], (*LEDGER[:2], Event(4, REVOKED, "c-a"))),
    ],
)
def test_a_broken_promise_is_found(broken: str, write: Write, events: tuple[Event, ...]) -> None:
    assert broken in [violation.rule for violation in settle([write], events).violations]
