"""Whether the service is asked at all: the circuit that an exhausted retry opens and good probes close. Pure.

    closed ──an exhausted retry──> buffering ──60 s──> probing ──10 failed in a row──> suspended
      ^                                                │  ^ ^                              │
      │                                                │  │ └───────── a good one ─────────┘
      └── 100 % after 2 min ── ramping <── 3 good ─────┘  │ (a failed one: on as before)
                                  └── an exhausted retry ─┴──> buffering

While it is not closed, no share is asked about, except for a part of them while it is ramping; the others are judged by
what was known. Probes are the guard's own calls: one a minute, or one in fifteen minutes once suspended.

The outage clock is another matter: it starts with the first exhausted retry and stops only when the circuit is closed
and a node has answered `current`, because an answer flagged `last_known` does not end an outage.
"""

import enum
from typing import Final

import msgspec

from engine.clock import Seconds

BUFFER: Final = Seconds(60.0)  # without any call
PROBE_EVERY: Final = Seconds(60.0)
PROBE_JITTER: Final = Seconds(10.0)  # earlier or later
FAILURES_UNTIL_SUSPENDED: Final = 10
SUSPENDED_EVERY: Final = Seconds(900.0)
GOOD_TO_CLOSE: Final = 3
RAMP: Final = ((Seconds(60.0), 0.1), (Seconds(120.0), 0.5))  # until so long after the third good probe: so many


class State(enum.StrEnum):
    """As `GuardStatus.circuit` shows it."""

    CLOSED = "closed"
    BUFFERING = "buffering"
    PROBING = "probing"
    SUSPENDED = "suspended"
    RAMPING = "ramping"


class CircuitStatus(msgspec.Struct, frozen=True):
    """How it stands. next_probe_at: on the monotonic clock that the circuit was told of; None: no probe is due."""

    state: State
    next_probe_at: float | None
    failed_probes: int
    good_probes: int


class Circuit:
    """Every `now` is monotonic seconds that go on while the machine sleeps; every `draw` is in [0, 1)."""

    def __init__(self) -> None:
        self._state = State.CLOSED
        self._next_probe = 0.0
        self._failed = 0
        self._good = 0
        self._ramping_since = 0.0

    def status(self, now: float) -> CircuitStatus:
        """A frozen record of now."""
        state = self._state_at(now)
        has_probes = state in (State.BUFFERING, State.PROBING, State.SUSPENDED)
        return CircuitStatus(state, self._next_probe if has_probes else None, self._failed, self._good)

    def admits(self, now: float, draw: float) -> bool:
        """Whether a share may be asked about now."""
        state = self._state_at(now)
        if state is State.RAMPING:
            since = now - self._ramping_since
            return draw < next(part for until, part in RAMP if since < until)
        return state is State.CLOSED

    def exhausted(self, now: float) -> bool:
        """A retry strategy has been exhausted, and it is an outage. Returns whether this opened the circuit.

        Not where it is open: then it is a straggler that began before.
        """
        if self._state_at(now) not in (State.CLOSED, State.RAMPING):
            return False
        self._state = State.BUFFERING
        self._next_probe = now + BUFFER
        self._failed = self._good = 0
        return True

    def probe_due(self, now: float) -> bool:
        """Whether a probe is to be made now."""
        return self._state_at(now) in (State.PROBING, State.SUSPENDED) and now >= self._next_probe

    def probed(self, now: float, draw: float, *, good: bool) -> None:
        """What came of a probe."""
        if self._state_at(now) not in (State.PROBING, State.SUSPENDED):
            return
        if good:
            self._good, self._failed, self._state = self._good + 1, 0, State.PROBING
        else:
            self._good, self._failed = 0, self._failed + 1
            if self._failed >= FAILURES_UNTIL_SUSPENDED:
                self._state = State.SUSPENDED
        if self._good >= GOOD_TO_CLOSE:
            self._state, self._ramping_since = State.RAMPING, now
            return
        every = SUSPENDED_EVERY if self._state is State.SUSPENDED else PROBE_EVERY
        self._next_probe = now + every + PROBE_JITTER * (2 * draw - 1)

    def _state_at(self, now: float) -> State:
        """After what time alone brings about."""
        if self._state is State.BUFFERING and now >= self._next_probe:
            self._state = State.PROBING
        elif self._state is State.RAMPING and now - self._ramping_since >= RAMP[-1][0]:
            self._state, self._good = State.CLOSED, 0
        return self._state
