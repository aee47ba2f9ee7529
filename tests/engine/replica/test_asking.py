"""Which answers count, and from when."""

import math

import pytest

from engine.clock import BootTime, UnixTime
from engine.decision.freshness import MAX_SILENCE, Bound
from engine.feed.questions import Answer
from engine.replica.asking import MAX_OUTSTANDING, Asked, Asking, bound_of, disowned, silence, withdrawn
from tests.support.replicas import BOOT, INCARNATION, NOW, OTHER_BOOT, OTHER_INCARNATION, bound

INSTANCE = "aaaaaaaaaaaaaaaa"
NONCE = "0000000000000001"


def asked_at(at: float) -> Asked:
    return Asked(BootTime(at), UnixTime(int(at)))


@pytest.fixture
def asking() -> Asking:
    return Asking(INSTANCE, INCARNATION)


def ask(asking: Asking, nonce: str, at: float) -> None:
    asking.ask(nonce, BootTime(at), UnixTime(int(at)))


def test_an_answer_counts_from_when_its_question_was_asked(asking: Asking) -> None:
    ask(asking, NONCE, 10.0)
    assert asking.earned(5) is None
    assert asking.answer(Answer(INSTANCE, NONCE, INCARNATION, 5))
    assert asking.earned(5) == asked_at(10.0)


def test_an_answer_waits_until_its_entries_are_applied(asking: Asking) -> None:
    ask(asking, NONCE, 10.0)
    asking.answer(Answer(INSTANCE, NONCE, INCARNATION, 6))
    assert asking.earned(5) is None
    assert asking.waiting_since(5) == 10.0
    assert asking.head == 6
    assert asking.earned(6) == asked_at(10.0)
    assert asking.waiting_since(6) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer("bbbbbbbbbbbbbbbb", NONCE, INCARNATION, 5),
        Answer(INSTANCE, "0000000000000002", INCARNATION, 5),
        Answer(INSTANCE, NONCE, OTHER_INCARNATION, 5),
    ],
)
def test_an_answer_to_anothers_question_never_counts(asking: Asking, answer: Answer) -> None:
    ask(asking, NONCE, 10.0)
    assert not asking.answer(answer)
    assert asking.earned(5) is None


def test_a_question_too_old_to_earn_anything_is_forgotten(asking: Asking) -> None:
    ask(asking, NONCE, 10.0)
    ask(asking, "0000000000000002", 10.0 + MAX_SILENCE)
    assert not asking.answer(Answer(INSTANCE, NONCE, INCARNATION, 5))


def test_what_was_earned_does_not_go_back(asking: Asking) -> None:
    for number, at in ((1, 10.0), (2, 10.1)):
        ask(asking, f"{number:016}", at)
    asking.answer(Answer(INSTANCE, f"{2:016}", INCARNATION, 5))
    assert asking.earned(5) == asked_at(10.1)
    asking.keep(asking.earned(5))
    assert not asking.answer(Answer(INSTANCE, f"{1:016}", INCARNATION, 5))
    assert asking.earned(5) == asked_at(10.1)


def test_several_answers_to_one_question_leave_the_easiest(asking: Asking) -> None:
    ask(asking, NONCE, 10.0)
    for seq in (9, 5, 7):
        asking.answer(Answer(INSTANCE, NONCE, INCARNATION, seq))
    assert asking.earned(5) == asked_at(10.0)
    assert asking.head == 9


def test_questions_outstanding_are_bounded(asking: Asking) -> None:
    for number in range(MAX_OUTSTANDING + 5):
        ask(asking, f"{number:016}", 10.0)
    taken = [asking.answer(Answer(INSTANCE, f"{n:016}", INCARNATION, 5)) for n in range(MAX_OUTSTANDING + 5)]
    assert taken == [False] * 5 + [True] * MAX_OUTSTANDING


def test_a_bound_is_earned_on_this_boot() -> None:
    previous = Bound(INCARNATION, 4, OTHER_BOOT, BootTime(9_000.0), NOW)
    earned = bound_of(previous, 5, asked_at(10.0), BOOT)
    assert earned == Bound(INCARNATION, 5, BOOT, BootTime(12.0), UnixTime(10))


def test_without_an_answer_only_the_position_moves() -> None:
    previous = Bound(INCARNATION, 4, OTHER_BOOT, BootTime(9_000.0), NOW)
    assert bound_of(previous, 5, None, BOOT) == Bound(INCARNATION, 5, OTHER_BOOT, BootTime(9_000.0), NOW)


def test_a_withdrawn_bound_is_known_as_of_then_and_a_disowned_one_not_at_all() -> None:
    previous = Bound(INCARNATION, 4, BOOT, BootTime(9_000.0), NOW)
    assert withdrawn(previous, BootTime(10.0)) == Bound(INCARNATION, 4, BOOT, BootTime(10.0), NOW)
    assert withdrawn(previous, BootTime(9_001.0)) == previous
    assert disowned(previous) == bound(4)


def test_silence_is_counted_from_the_question() -> None:
    assert silence(None, BootTime(5.0)) == math.inf
    assert silence(asked_at(10.0), BootTime(10.5)) == 0.5
