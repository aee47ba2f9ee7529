"""A guard's part that follows events: three tasks, for trio and asyncio alike.

One applies what was kept, at once. One says challenges back. One asks the service whenever the watch says so.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from engine.backoff import Backoff
from engine.clock import Clock, Seconds
from engine.errors import Fault
from engine.guard.event_store import EventStore, StreamIds
from engine.guard.healing import Healing
from engine.guard.intake import Intake
from engine.guard.retry import NOT_SAID
from engine.guard.subscribing import Subscribing
from engine.guard.transmitter import NoSuchStream, NotTold, TooManyCalls, TooOld
from engine.guard.watch import Watch, Why
from engine.telemetry import logs

LOOK_EVERY: Final = Seconds(30.0)  # to note that nothing is missing, and that the machine has slept
BACKOFF: Final = Backoff(first=Seconds(0.5), limit=Seconds(30.0))

_log = logs.logger("events")


class Bell:
    """Rings for one task, which looks at all there is when it wakes."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """From a task of the loop."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until it has rung since it was last waited for, or the time is over."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self._event = anyio.Event()


class Following:
    """jitter: draws from [0, 1)."""

    def __init__(
        self,
        store: EventStore,
        intake: Intake,
        watch: Watch,
        healing: Healing,
        subscribing: Subscribing,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._intake = intake
        self._watch = watch
        self._healing = healing
        self._subscribing = subscribing
        self._clock = clock
        self._jitter = jitter
        self._to_apply, self._to_confirm, self._to_ask = Bell(), Bell(), Bell()
        self._refused = ("", "")  # why streams could not be set up, as it was logged last
        self.asked_at: float | None = None  # seconds since 1970: when asking was last answered to the end

    def wake(self) -> None:
        """Something has come, or changed. Never blocks."""
        for bell in (self._to_apply, self._to_confirm, self._to_ask):
            bell.ring()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, "apply", self._apply, self._to_apply)
            tasks.start_soon(self._repeat, "confirm", self._subscribing.answer_challenges, self._to_confirm)
            tasks.start_soon(self._ask_for_ever)

    async def _apply(self) -> None:
        if self._intake.is_behind:
            await self._intake.apply_due()
        if self._intake.challenges():
            self._to_confirm.ring()

    async def _repeat(self, what: str, step: Callable[[], Awaitable[None]], bell: Bell) -> None:
        failures = 0
        while True:
            try:
                await step()
            except Fault as fault:
                failures += 1
                _log.error("events_not_followed", step=what, text=fault.text, detail=fault.detail)
                await anyio.sleep(max(BACKOFF.delay(failures + 1, self._jitter()), _wait_of(fault)))
            else:
                failures = 0
                await bell.wait(LOOK_EVERY)

    async def _ask_for_ever(self) -> None:
        while True:
            at, why = self._watch.next_ask()
            if at <= self._clock.boot():
                await self._ask(why)
            elif self._subscribing.is_due():
                await self._mend_streams()
            await self._look()
            at, _ = self._watch.next_ask()
            await self._to_ask.wait(min(LOOK_EVERY, max(0.0, at - self._clock.boot())))

    async def _ask(self, why: Why) -> None:
        try:
            if why in {Why.START, Why.AUDIT} or not self._store.streams.poll:
                await self._unless_refused(self._subscribing.ensure)
            elif why is Why.SILENCE:
                await self._unless_refused(self._subscribing.look)
            await self._healing.heal(must_list=why in {Why.START, Why.SILENCE, Why.RESTORED})
            while await self._intake.on_disk(self._store.forget, self._clock.now()):
                pass
        except NoSuchStream as fault:
            self._failed(why, fault)
            await self._intake.on_disk(self._store.note, streams=StreamIds())  # they are made anew the next time
        except Fault as fault:
            self._failed(why, fault)
        else:
            self.asked_at = float(self._clock.now())

    async def _unless_refused(self, step: Callable[[], Awaitable[None]]) -> None:
        """Whatever keeps the service from taking our address must not keep us from asking."""
        try:
            await step()
        except NotTold as fault:
            if (fault.text, fault.detail) != self._refused:  # once for each change, not with every ask
                _log.error("streams_not_set_up", text=fault.text, detail=fault.detail)
            self._refused = (fault.text, fault.detail)
        except TooManyCalls as fault:
            _log.info("streams_set_up_later", text=fault.text, detail=fault.detail)
        else:
            self._refused = ("", "")

    async def _mend_streams(self) -> None:
        """What the service did not take as soon as we wanted it; should that fail, the next audit does it."""
        try:
            await self._unless_refused(self._subscribing.ensure)
        except Fault as fault:
            _log.warning("streams_not_looked_at", text=fault.text, detail=fault.detail)

    def _failed(self, why: Why, fault: Fault) -> None:
        refused = isinstance(fault, NotTold | NoSuchStream | TooOld | TooManyCalls)
        self._watch.failed(self._clock.boot(), self._jitter(), refused=refused, wait=_wait_of(fault))
        _log.warning("events_not_asked", why=why, text=fault.text, detail=fault.detail)

    async def _look(self) -> None:
        try:
            self._intake.settle()
            await self._intake.note_sound()
        except Fault as fault:
            _log.error("events_not_noted", text=fault.text, detail=fault.detail)


def _wait_of(fault: Fault) -> Seconds:
    """How long the service asked us to wait."""
    return fault.wait if isinstance(fault, TooManyCalls) else NOT_SAID
