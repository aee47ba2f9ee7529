"""Any order of questions, answers, forgeries and applying: a bound rests on a question of one's own, answered.

The machine keeps the truth beside the object under test: a ledger that grows, when each question was asked, and
what an answer may have seen. The claim is the protocol's: whatever the ledger held when the question was asked is
applied once the bound is earned.
"""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.clock import BootTime, UnixTime
from engine.feed.questions import Answer
from engine.replica.asking import Asked, Asking

OWN, FOREIGN = "a" * 16, "b" * 16
INCARNATIONS = ("0" * 16, "1" * 16)


class AskingMachine(RuleBasedStateMachine):
    """One node's questions over two incarnations of a ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.head = self.applied = self.drawn = 0
        self.incarnation = INCARNATIONS[0]
        self.asking = Asking(OWN, self.incarnation)
        self.asked: dict[str, tuple[float, int, str]] = {}  # nonce -> when, the ledger's head then, incarnation
        self.answered: dict[str, list[int]] = {}  # own nonces genuinely answered -> positions
        self.best: Asked | None = None

    @rule(wait=st.floats(0, 0.8))
    def time_passes(self, wait: float) -> None:
        self.time += wait

    @rule(count=st.integers(1, 3))
    def the_ledger_grows(self, count: int) -> None:
        self.head += count

    @rule()
    def ask(self) -> None:
        self.drawn += 1
        nonce = f"{self.drawn:016x}"
        self.asked[nonce] = (self.time, self.head, self.incarnation)
        self.asking.ask(nonce, BootTime(self.time), UnixTime(int(self.time)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """A projector that has read the question reads the ledger then: at least the head of the asking."""
        nonce = data.draw(st.sampled_from(sorted(self.asked)))
        seq = data.draw(st.integers(self.asked[nonce][1], self.head))
        if self.asking.answer(Answer(OWN, nonce, self.asked[nonce][2], seq)):
            assert self.asked[nonce][2] == self.incarnation
            self.answered.setdefault(nonce, []).append(seq)

    @rule(seq=st.integers(0, 50), incarnation=st.sampled_from(INCARNATIONS), drawn=st.integers(0, 60))
    def an_answer_that_is_not_for_us(self, seq: int, incarnation: str, drawn: int) -> None:
        assert not self.asking.answer(Answer(FOREIGN, f"{drawn:016x}", incarnation, seq))
        assert not self.asking.answer(Answer(OWN, f"{drawn + 10**6:016x}", incarnation, seq))
        other = INCARNATIONS[1 - INCARNATIONS.index(self.incarnation)]
        assert not self.asking.answer(Answer(OWN, f"{drawn:016x}", other, seq))

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        self.applied = data.draw(st.integers(self.applied, self.head))

    @rule()
    def another_incarnation(self) -> None:
        self.incarnation = INCARNATIONS[1 - INCARNATIONS.index(self.incarnation)]
        self.asking = Asking(OWN, self.incarnation)
        self.answered.clear()
        self.best = None
        self.applied = self.head

    @invariant()
    def a_bound_rests_on_an_own_answered_question_whose_ledger_is_applied(self) -> None:
        earned = self.asking.earned(self.applied)
        self.asking.keep(earned)
        if earned is None:
            assert self.best is None
            return
        grounds = [
            nonce
            for nonce, seqs in self.answered.items()
            if self.asked[nonce][0] == earned.at and min(seqs) <= self.applied and self.asked[nonce][1] <= self.applied
        ]
        assert grounds
        assert earned.at <= self.time
        assert self.best is None or earned.at >= self.best.at
        self.best = earned

    @invariant()
    def an_answer_still_waiting_is_one_whose_entries_are_missing(self) -> None:
        if self.asking.waiting_since(self.applied) is not None:
            assert self.asking.head > self.applied


TestAskingMachine = AskingMachine.TestCase
TestAskingMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
