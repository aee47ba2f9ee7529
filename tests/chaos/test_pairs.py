"""Figures of made-up shares that were checked both ways."""

import msgspec

from tests.chaos.pairs import UNSEEN, Pair, Truth, guarded_by, truth
from tests.chaos.plan import ALL_NODES, Fault, What
from tests.chaos.tally import AFTERWARDS
from tests.chaos.verdicts import Said

WELL = Pair(
    0.5, "guard-1", raw=True, retried=True, said=Said.CONSENTED, guarded=True, raw_decided=True, retried_decided=True
)
OUT = Pair(2.5, "guard-1", raw=False, retried=False, said=Said.LAST_KNOWN, guarded=True)
NEW = Pair(2.6, "guard-1", raw=False, retried=False, said=Said.UNDECIDED, guarded=False, reason="unknown_in_outage")
DEAD = Pair(9.0, "guard-3", raw=False, retried=True, said=Said.NOTHING, guarded=False)
PLAN = (
    Fault(1, 2.0, 4.0, What.KILL, ALL_NODES, 0.5),
    Fault(2, 8.0, 9.0, What.KILL, "guard-3", 0.5),
    Fault(3, 0.0, 9.0, What.REFUSE, "pusher > guard-1", 0.5),
)


def test_shares_of_true_answers_are_of_the_same_checks() -> None:
    found = guarded_by([WELL, OUT, NEW, DEAD], PLAN, 10.0)
    assert msgspec.structs.astuple(found.all) == (4, 0.25, 0.5, 0.5, 2)
    assert msgspec.structs.astuple(found.outages) == (2, 0.0, 0.0, 0.5, 1)
    assert msgspec.structs.astuple(found.unhurt) == (3, 1 / 3, 1 / 3, 2 / 3, 1)
    assert found.outage_seconds == 2.0
    assert truth([]).guarded == 1.0


def test_shares_of_consents_that_stand_are_told_apart() -> None:
    found = guarded_by([WELL, OUT, msgspec.structs.replace(NEW, stands=False)], PLAN, 10.0)
    assert msgspec.structs.astuple(found.standing) == (2, 0.5, 0.5, 1.0, 0)
    assert msgspec.structs.astuple(found.standing_in_outages) == (1, 0.0, 0.0, 1.0, 0)


def test_a_guard_is_hurt_until_shortly_after_and_no_other_one_is() -> None:
    late = msgspec.structs.replace(DEAD, at=9.0 + AFTERWARDS)
    other = msgspec.structs.replace(DEAD, guard="guard-1")
    assert guarded_by([DEAD, late, other], PLAN, 12.0).unhurt.checks == 2


def test_each_second_and_each_reason_is_counted() -> None:
    found = guarded_by([WELL, OUT, NEW, msgspec.structs.replace(DEAD, at=10.9)], PLAN, 10.0)
    assert found.by_second[Said.LAST_KNOWN][2] == 1
    assert found.by_second[Said.NOTHING][10] == 1  # what comes late counts for the last one
    assert found.said == {said.value: count for said, count in zip(Said, (1, 1, 0, 1, 1), strict=True)}
    assert found.reasons == {"unknown_in_outage": 1}


WRONG = msgspec.structs.replace(WELL, said=Said.DENIED, guarded=False, raw=False)  # answered, and not true
UNSEEN_ONE = msgspec.structs.replace(NEW, seen=False)


def shares(found: Truth) -> tuple[int, float, float, float]:
    return (found.checks, found.raw, found.retried, found.guarded)


def test_a_decision_is_an_answer_whether_or_not_it_is_true() -> None:
    found = guarded_by([WELL, WRONG], PLAN, 10.0)
    assert shares(found.answered.all) == (2, 1.0, 1.0, 1.0)
    assert shares(found.all) == (2, 0.5, 1.0, 0.5)


def test_a_check_that_decides_nothing_or_that_nobody_answers_is_not_answered() -> None:
    for reason in ("unknown_in_outage", "no_answer", "unanswered", "degraded", "slow_down", ""):
        missed = msgspec.structs.replace(NEW, reason=reason)
        assert guarded_by([WELL, missed], PLAN, 10.0).answered.seen.missed == 1
    assert guarded_by([msgspec.structs.replace(DEAD, guard="guard-1")], PLAN, 10.0).answered.seen_unhurt.missed == 1


def test_only_tokens_that_the_guard_never_introspected_stand_apart() -> None:
    answered = guarded_by([WELL, OUT, UNSEEN_ONE, DEAD], PLAN, 10.0).answered
    assert [found.checks for found in (answered.all, answered.seen, answered.unseen)] == [4, 3, 1]
    assert shares(answered.seen) == (3, 1 / 3, 1 / 3, 2 / 3)
    assert shares(answered.unseen) == (1, 0.0, 0.0, 0.0)
    assert (answered.seen_unhurt.missed, answered.seen_hurt.missed) == (0, 1)
    assert shares(answered.seen_in_outages) == (1, 0.0, 0.0, 1.0)


def test_a_run_may_be_held_to_a_share_of_answered_checks() -> None:
    seen = guarded_by([WELL, WELL, WELL, NEW], PLAN, 10.0).answered.seen
    assert seen.reaches(0.75)
    assert not seen.reaches(0.76)
    assert not truth([]).reaches(0.0)


def test_populations_are_told_apart() -> None:
    answered = guarded_by([msgspec.structs.replace(WELL, lasting=True), OUT, NEW], PLAN, 10.0).answered
    assert (answered.lasting.checks, answered.passing.checks) == (1, 2)
    assert (answered.lasting.guarded, answered.passing.guarded) == (1.0, 0.5)


def test_what_was_not_answered_is_listed_with_its_reasons_and_seconds() -> None:
    found = guarded_by([WELL, UNSEEN_ONE, NEW, msgspec.structs.replace(NEW, at=2.7), DEAD], PLAN, 10.0)
    listed = [(one.reason, one.seen, one.hurt, one.count, one.seconds) for one in found.undecided]
    assert listed == [
        ("unknown_in_outage", True, False, 2, {2: 2}),
        ("no verdict", True, True, 1, {9: 1}),
        ("unknown_in_outage", False, False, 1, {2: 1}),
    ]
    assert (found.by_second[UNSEEN][2], found.by_second[Said.UNDECIDED][2]) == (1, 2)
