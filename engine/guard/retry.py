"""The retry strategy of an introspection: how often, how far apart, after what, and when not at all. Pure.

Four attempts with full jitter between them. Retries are a tenth of the calls of ten seconds at most, and are taken as a
whole *run* of three: were they handed out one by one, a failing service would leave every share with one retry and
none with all of them, and nobody would ever find out that there is an outage. A share without a run makes no more calls
of its own; it waits for what the others find out (`engine.guard.joining`).
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from engine.clock import Seconds
from engine.guard.evidence_words import Failure

ATTEMPTS: Final = 4
CONNECT: Final = Seconds(1.0)  # TCP and TLS
TOTAL: Final = Seconds(2.0)  # of an attempt, connecting included
WAITS: Final = (Seconds(0.2), Seconds(0.4), Seconds(0.8))  # before the second, third and fourth attempt, at most
WORST_CASE: Final = Seconds(ATTEMPTS * TOTAL + sum(WAITS))  # 9.4, from the first attempt to the end of the last
LONGEST_RETRY_AFTER: Final = Seconds(60.0)  # nobody may make us wait for longer
NOT_SAID: Final = Seconds(0.0)

WINDOW: Final = Seconds(10.0)
SHARE: Final = 0.1  # of the calls within the window
# Where less than a hundred calls are made in ten seconds a tenth of them is no run at all, and a guard that is asked
# seldom would never retry: three runs and a hedge are always to be had.
FLOOR: Final = 10

_COUNTING: Final = frozenset({Failure.CONNECT, Failure.TIMEOUT, Failure.RESET, Failure.SERVER})
_FINAL: Final = frozenset({Failure.REFUSED})


def is_retried(failure: Failure) -> bool:
    """Whether the question is asked again. Not after 400, 401, 403, 404, 409, 422 and other 4xx, or a redirect.

    429 and whatever is no answer are retried, and never count towards an outage. A 5xx that the table does not name
    (500, 501, …) is retried like those it names: a run of them is an outage, so a run it has to be.
    """
    return failure not in _FINAL


def counts_as_outage(failure: Failure) -> bool:
    """Whether an address that fails so counts as one that cannot be asked: by transport, timeout or 5xx alone."""
    return failure in _COUNTING


def wait_before(attempt: int, draw: float, retry_after: Seconds = NOT_SAID) -> Seconds:
    """How long to wait before an attempt (2 to 4). draw: in [0, 1). retry_after: of a 429 by whom we are to ask."""
    jittered = WAITS[attempt - 2] * draw
    return Seconds(max(jittered, min(retry_after, LONGEST_RETRY_AFTER)))


def read_retry_after(value: bytes) -> Seconds:
    """`Retry-After` as seconds (RFC 9110 section 10.2.3); 0 for a date or anything else, which nobody of ours sends."""
    return Seconds(float(value)) if value.isdigit() and len(value) < 10 else NOT_SAID


class RetryBudget:
    """At most a tenth of the calls within ten seconds are retries or hedges. now: any monotonic seconds, never back."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, int]] = deque()  # by hundredths of the window, so that it stays small
        self._spent: deque[tuple[float, int]] = deque()
        self._call_count = 0
        self._spent_count = 0

    def note_call(self, now: float) -> None:
        """A question is asked for the first time."""
        self._call_count += 1
        calls = self._calls
        if calls and now - calls[-1][0] < WINDOW / 100:
            calls[-1] = (calls[-1][0], calls[-1][1] + 1)
        else:
            calls.append((now, 1))
            self._forget(now)

    def take(self, now: float, count: int) -> bool:
        """Reserve that many retries, or none."""
        return self._take(now, count, 1.0)

    def take_hedge(self, now: float) -> bool:
        """Reserve one hedge: of half the budget at most, or slowness would use up what finds out about outages."""
        return self._take(now, 1, 0.5)

    def _take(self, now: float, count: int, part: float) -> bool:
        self._forget(now)
        if self._spent_count + count > part * max(FLOOR, SHARE * self._call_count):
            return False
        self._spent.append((now, count))
        self._spent_count += count
        return True

    def give_back(self, count: int) -> None:
        """Extra calls that were reserved and not made."""
        while count and self._spent:
            at, taken = self._spent.pop()
            back = min(count, taken)
            self._spent_count -= back
            count -= back
            if taken > back:
                self._spent.append((at, taken - back))

    def _forget(self, now: float) -> None:
        self._call_count -= _drop_old(self._calls, now)
        self._spent_count -= _drop_old(self._spent, now)


def _drop_old(noted: deque[tuple[float, int]], now: float) -> int:
    dropped = 0
    while noted and now - noted[0][0] >= WINDOW:
        dropped += noted.popleft()[1]
    return dropped


def is_slow_down(failures: Iterable[Failure]) -> bool:
    """Whether a run failed by nothing but 429."""
    failures = tuple(failures)
    return bool(failures) and all(failure is Failure.TOO_MANY for failure in failures)
