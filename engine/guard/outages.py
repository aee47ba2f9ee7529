"""An outage from its first exhausted retry to its last: the circuit, the clock of its cap, and what is recorded of it.

The cap is counted by two clocks, the longer of which counts, so that neither a clock that is set back nor a restart
lengthens it: seconds since boot, and the wall time at which the outage began, which is on record. So is, each minute,
how long it has lasted: both at once do not lengthen it either, but by a minute and the time for which nothing ran.
"""

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from engine.clock import BootTime, Clock, Seconds, UnixTime
from engine.guard.circuit import Circuit, CircuitStatus, State
from engine.guard.config import Policy
from engine.guard.evidence_words import Attempt, Evidence, OutageEvidence
from engine.guard.fallback import Outage
from engine.guard.memory import Memory, MemoryFull

NOTE_EVERY: Final = Seconds(60.0)  # how long an outage has lasted is on record
LOOK_EVERY: Final = Seconds(1.0)  # while an outage lasts: whether the circuit has closed

_KEPT: Final = 16  # attempts of the run that shares in an outage are recorded with
_MOST_UNRECORDED: Final = 64  # begins and ends that wait for room, each by itself


class Outages:
    """Never waits but in `wait_probe` and `wait_unended`."""

    def __init__(
        self,
        policy: Policy,
        memory: Memory,
        evidence: Evidence,
        clock: Clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._memory = memory
        self._evidence = evidence
        self._clock = clock
        self._draw = draw
        self._circuit = Circuit()
        self._opened, self._began = anyio.Event(), anyio.Event()
        self._shares = 0
        self._unrecorded: list[OutageEvidence] = []  # begins and ends that the evidence had no room for, in order
        self.attempts: tuple[Attempt, ...] = ()
        self.since: float | None = evidence.open_outage()
        self._since_boot = float(clock.boot()) - self._passed()
        self._noted_at = clock.boot()
        self._known_to_be = (float(memory.newest()), float(clock.boot()))  # a time that it was, and when
        self.current_at: BootTime | None = None  # the newest `current` answer, by the boot clock

    def admits(self) -> bool:
        """Whether a share may be asked about."""
        return self._circuit.admits(self._clock.boot(), self._draw())

    def begin(self, attempts: Sequence[Attempt]) -> None:
        """A retry has been exhausted, and it is an outage."""
        now = self._clock.boot()
        if not self._circuit.exhausted(now):
            return
        self.attempts = tuple(attempts)[-_KEPT:]
        if self.since is None:
            self.since, self._since_boot, self._shares = float(self._clock.now()), float(now), 0
            self._noted_at, self._known_to_be = now, (float(self._memory.newest()), float(now))
            self._record(OutageEvidence(self.since, 0.0, self.attempts))
            self._began.set()
        self._opened.set()

    def answered(self, *, current: bool) -> None:
        """A node answered. An outage ends with a `current` answer once the circuit is closed, and not before."""
        if current:
            self.current_at = self._clock.boot()
        if self.since is not None and current and self.is_closed:
            end = OutageEvidence(self.since, float(self._clock.now()), self.attempts, self._shares)
            self.since, self.attempts = None, ()
            self._record(end)
        elif self._unrecorded:
            self._record()

    @property
    def is_closed(self) -> bool:
        """Whether every share is asked about."""
        return self._circuit.admits(self._clock.boot(), 1.0)

    @property
    def is_open(self) -> bool:
        """Whether no call is to be made but probes."""
        return self.status().state not in (State.CLOSED, State.RAMPING)

    @property
    def is_on_record(self) -> bool:
        """Whether the evidence knows of all begins and ends: a share on what was known comes after them."""
        return not self._unrecorded

    def now(self) -> Outage:
        """What shares are judged under at this moment."""
        if self._unrecorded:
            self._record()  # before a share is: a restart must not forget the outage
        wall, lasts = self._clock.now(), 0.0
        if self.since is not None:
            lasts = self._lasts(self.since)
            time, boot = self._known_to_be
            wall = UnixTime(max(wall, int(self.since + lasts), int(time + self._clock.boot() - boot)))
        return Outage(wall, Seconds(lasts), self._policy, self._memory.missing_since(), self._memory.rested_at())

    def note_time(self) -> None:
        """Keep on record how long an outage has lasted, once a minute. Call it every few seconds."""
        now = self._clock.boot()
        if self.since is not None and now - self._noted_at >= NOTE_EVERY:
            self._noted_at = now
            with contextlib.suppress(MemoryFull):
                self._evidence.note_outage(self.since + self._lasts(self.since))

    def _passed(self) -> float:
        """Of an outage that an earlier process has begun, as far as is known."""
        if self.since is None:
            return 0.0
        return max(0.0, max(float(self._clock.now()), self._evidence.outage_noted()) - self.since)

    def _lasts(self, since: float) -> float:
        return max(self._clock.boot() - self._since_boot, self._clock.now() - since)

    def shared(self, count: int) -> None:
        """So many shares are being made on what was known: their evidence is on disk."""
        self._shares += count

    def status(self) -> CircuitStatus:
        """The circuit's, its times on the boot clock."""
        return self._circuit.status(self._clock.boot())

    def until_probe(self) -> Seconds | None:
        """Seconds until the next probe; None: none is due."""
        at = self.status().next_probe_at
        return None if at is None else Seconds(max(0.0, at - self._clock.boot()))

    async def wait_probe(self) -> None:
        """Return when a probe is to be made."""
        while not self._circuit.probe_due(self._clock.boot()):
            wait = self.until_probe()
            if wait is None:
                self._opened = anyio.Event()
                await self._opened.wait()
            else:
                await anyio.sleep(max(wait, 0.001))

    async def wait_unended(self) -> None:
        """Return when an outage stands although every share is asked about: it may be that none comes to end it.

        Or when its end is not on record yet, for want of room.
        """
        while not (self._unrecorded if self.since is None else self.is_closed):
            if self.since is None:
                self._began = anyio.Event()
                await self._began.wait()
            else:
                await anyio.sleep(LOOK_EVERY)

    def probed(self, *, good: bool) -> None:
        """What came of it."""
        self._circuit.probed(self._clock.boot(), self._draw(), good=good)

    def _record(self, *entries: OutageEvidence) -> None:
        """A full disk neither begins nor ends an outage: it only allows no share in it. What waits goes first."""
        self._unrecorded.extend(entries)
        if len(self._unrecorded) > _MOST_UNRECORDED and self._unrecorded[-1].ended_at:
            self._fold()
        with contextlib.suppress(MemoryFull):
            self._evidence.record_all(tuple(self._unrecorded))
            self._unrecorded.clear()

    def _fold(self) -> None:
        """The two newest of the outages that wait are told as one from now on; the first ones stay.

        Each begin stands before its end, so that the last four are two outages.
        """
        begin, first, _, last = self._unrecorded[-4:]
        count = max(first.folded, 1) + 1
        end = OutageEvidence(begin.began_at, last.ended_at, last.attempts, first.shares + last.shares, count)
        self._unrecorded[-4:] = [begin, end]
