"""The questions a node has asked and what their answers have earned. Pure: times and nonces are passed in.

The rule that everything rests on (architecture: freshness): an answer counts from the moment its question was
*asked*, only under the node's own instance and incarnation, and only once everything up to the position in it is
applied. Then whatever the ledger had committed before that moment is in the replica: the position was read after
the question existed, because the answer carries the question's nonce.

    t   the node notes the boot clock, then writes the question
    P   the projector reads the ledger's position, after it has read the question
    a   the answer (nonce, incarnation, P) is seen; applied >= P
    =>  until t + MAX_SILENCE a worker may call its answers current

An answer that arrives before its entries have been applied is kept, and counts when they are.
"""

from typing import Final, Protocol

import msgspec

from engine.clock import BootTime, Seconds, UnixTime
from engine.decision.freshness import MAX_SILENCE, Bound

MAX_OUTSTANDING: Final = 1_024  # age alone bounds them at the feeder's pace (200); this is for the memory's sake


class Asked(msgspec.Struct, frozen=True):
    """When a question was asked: on this boot's clock for the promise, in wall time for `as_of`."""

    at: BootTime
    wall: UnixTime


class Answered(Protocol):
    """What counts of an answer; `engine.feed.questions.Answer` has this shape."""

    @property
    def instance(self) -> str: ...
    @property
    def nonce(self) -> str: ...
    @property
    def incarnation(self) -> str: ...
    @property
    def seq(self) -> int: ...


class Asking:
    """The state of one feeder's questions under one incarnation; a new incarnation begins a new `Asking`."""

    def __init__(self, instance: str, incarnation: str) -> None:
        self.instance = instance
        self.incarnation = incarnation
        self.head = 0  # the highest ledger position any counting answer spoke of
        self._outstanding: dict[str, Asked] = {}
        self._answers: dict[str, int] = {}  # nonce -> the lowest position answered
        self._earned: Asked | None = None

    def ask(self, nonce: str, at: BootTime, wall: UnixTime) -> None:
        """Note a question. at, wall: read *before* the question is written anywhere."""
        self._forget_before(at)
        self._outstanding[nonce] = Asked(at, wall)

    def answer(self, answer: Answered) -> bool:
        """Take an answer. False: it does not count (another's, another incarnation's, forgotten, never asked)."""
        if answer.instance != self.instance or answer.incarnation != self.incarnation:
            return False
        if answer.nonce not in self._outstanding:
            return False
        self.head = max(self.head, answer.seq)
        self._answers[answer.nonce] = min(answer.seq, self._answers.get(answer.nonce, answer.seq))
        return True

    def earned(self, applied: int) -> Asked | None:
        """The newest question whose answer is fulfilled by what is applied; None = none yet.

        Looks only: `applied` may be about to be written, and the writing may fail. What was written is kept by `keep`.
        """
        earned = self._earned
        for nonce, seq in self._answers.items():
            asked = self._outstanding[nonce]
            if seq <= applied and (earned is None or asked.at > earned.at):
                earned = asked
        return earned

    def keep(self, earned: Asked | None) -> None:
        """What was earned is published: it stays earned (the bound runs out by itself), and never goes back."""
        self._earned = earned
        self._forget_earned()

    def waiting_since(self, applied: int) -> BootTime | None:
        """When the oldest question was asked whose answer speaks of entries that are not here yet; None = none."""
        return min((self._outstanding[n].at for n, seq in self._answers.items() if seq > applied), default=None)

    def _forget_before(self, now: BootTime) -> None:
        """Drop questions that can earn nothing any more, and the oldest ones when there are too many."""
        dead = [n for n, asked in self._outstanding.items() if asked.at + MAX_SILENCE <= now]
        excess = len(self._outstanding) - len(dead) - MAX_OUTSTANDING + 1
        if excess > 0:
            dead += [n for n in self._outstanding if n not in dead][:excess]
        for nonce in dead:
            self._drop(nonce)

    def _forget_earned(self) -> None:
        if self._earned is not None:
            for nonce in [n for n, asked in self._outstanding.items() if asked.at <= self._earned.at]:
                self._drop(nonce)

    def _drop(self, nonce: str) -> None:
        self._outstanding.pop(nonce, None)
        self._answers.pop(nonce, None)


def bound_of(previous: Bound, applied: int, earned: Asked | None, boot_id: str) -> Bound:
    """What to publish: the bound earned, or the previous one moved on to `applied`.

    A bound earned under `previous` stays, because it only speaks of what was committed before its question.
    """
    if earned is None:
        return Bound(previous.incarnation, applied, previous.boot_id, previous.fresh_until, previous.as_of)
    fresh_until = BootTime(earned.at + MAX_SILENCE)
    return Bound(previous.incarnation, applied, boot_id, fresh_until, earned.wall)


def withdrawn(previous: Bound, now: BootTime) -> Bound:
    """The bound without its claim to be current from now on; what was known stays known as of then."""
    fresh_until = min(previous.fresh_until, now)
    return Bound(previous.incarnation, previous.applied, previous.boot_id, BootTime(fresh_until), previous.as_of)


def disowned(previous: Bound) -> Bound:
    """The bound of a replica whose incarnation is over: never current, known as of nothing."""
    return Bound(previous.incarnation, previous.applied, "", BootTime(0.0), UnixTime(0))


def silence(earned: Asked | None, now: BootTime) -> Seconds:
    """How long ago the newest fulfilled question was asked; infinite without one."""
    return Seconds(float("inf")) if earned is None else Seconds(now - earned.at)
