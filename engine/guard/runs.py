"""What has come of one question to the service: attempts that failed, and in the end an answer, or none."""

from typing import Generic, TypeVar

import msgspec

from engine.clock import Seconds
from engine.guard.calls import Worth
from engine.guard.evidence_words import Attempt, Failure
from engine.guard.retry import NOT_SAID, is_retried

V = TypeVar("V")


class Answered(msgspec.Struct, Generic[V], frozen=True):
    """A node answered. address: which. failures: the attempts before."""

    value: V
    worth: Worth
    address: str
    failures: tuple[Attempt, ...] = ()


class Unanswered(msgspec.Struct, frozen=True):
    """No node answered. exhausted: all attempts were made. failing: each node's newest failure (`verdict_on_run`).

    retry_after: the longest that a node asked for with 429, seconds. began: when it was asked first, by the client's
    clock. is_out_of_retries: the budget had none left, and what others find out may be waited for.
    """

    failures: tuple[Attempt, ...]
    exhausted: bool
    failing: dict[str, Failure | None]
    retry_after: Seconds = NOT_SAID
    began: float = 0.0
    is_out_of_retries: bool = False

    @property
    def kinds(self) -> list[Failure]:
        """How the attempts failed."""
        return [attempt.failure for attempt in self.failures]

    @property
    def status(self) -> int:
        """Of the last HTTP answer; 0: none."""
        return next((attempt.status for attempt in reversed(self.failures) if attempt.status), 0)


class Run:
    """So far. began: when it was asked first. asked: each address, and the place of its newest attempt."""

    __slots__ = ("asked", "began", "failures", "longest", "retry_after")

    def __init__(self, began: float = 0.0) -> None:
        self.began = began
        self.asked: dict[str, int] = {}
        self.failures: list[Attempt] = []
        self.retry_after: dict[str, Seconds] = {}  # of nodes that said 429 and have not been waited for
        self.longest = NOT_SAID

    def asks(self, address: str) -> None:
        """An attempt at a node begins."""
        self.asked[address] = len(self.asked) + len(self.failures)

    def slow_down(self, address: str, wait: Seconds) -> None:
        """A node said 429."""
        self.retry_after[address] = wait
        self.longest = max(self.longest, wait)

    def is_over(self) -> bool:
        """Whether the last attempt failed so that no other is made."""
        return bool(self.failures) and not is_retried(self.failures[-1].failure)
