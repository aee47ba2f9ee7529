"""What a guard's memory is held to at the end."""

import time

from tests.chaos.aftermath import Ledger, Standing
from tests.chaos.told import differences

LATER = time.time() + 86_400
LEDGER = Ledger(
    events=(),
    consents={
        "stands": Standing("stands", active=True, version=1, expires_at=LATER),
        "ended": Standing("ended", active=False, version=2, expires_at=LATER),
        "ran-out": Standing("ran-out", active=False, version=2, expires_at=time.time() - 5),
        "late": Standing("late", active=True, version=1, expires_at=time.time() - 1),
    },
    head=3,
    fault="",
)


def test_a_memory_that_agrees_is_not_complained_about() -> None:
    known = {"stands": False, "ended": True, "ran-out": False, "late": True, "of another": True}
    assert differences("guard-1", known, LEDGER) == (1, [])
    assert differences("guard-1", known | {"ran-out": True}, LEDGER) == (1, [])


def test_an_end_that_is_not_remembered_or_was_never_told_is_found() -> None:
    count, found = differences("guard-1", {"stands": True, "ended": False}, LEDGER)
    assert count == 1
    assert [one.rule for one in found] == ["lost event", "lost event"]
    assert "stands has ended" in found[0].says
    assert "ended has not ended" in found[1].says
