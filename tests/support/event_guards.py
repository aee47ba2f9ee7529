"""The parts of a guard that follow events, put together on the service in memory."""

from pathlib import Path

from engine.clock import BootTime
from engine.consent.records import ClientId
from engine.events.verification import RefusedEvent
from engine.guard.event_keys import EventKeys
from engine.guard.event_store import EventStore, StreamIds
from engine.guard.following import Following
from engine.guard.healing import Healing
from engine.guard.intake import Intake
from engine.guard.memory import Memory
from engine.guard.polling import Polling
from engine.guard.subscribing import Subscribing
from engine.guard.transmitter import Transmitter
from engine.guard.watch import Limits, Watch
from tests.support.event_files import seal_beside
from tests.support.events import EDP, ISSUER
from tests.support.guard_memory import InMemory
from tests.support.told import POLL_URL, HandClock, TellingService


class EventGuard:
    """One life of a guard's process; another on the same path is its next life. `close` is kill -9: nothing is said."""

    def __init__(
        self,
        path: Path,
        service: TellingService,
        *,
        memory: Memory | None = None,
        clock: HandClock | None = None,
        limits: Limits | None = None,
        push_url: str | None = None,
        set_up: bool = True,
        issuer: str = ISSUER,
        client_id: str = EDP,
        asks: Transmitter | None = None,
    ) -> None:
        """asks: whom it asks in place of the service in memory."""
        transmitter = service if asks is None else asks
        self.service = service
        self.memory = InMemory() if memory is None else memory
        self.clock = HandClock() if clock is None else clock
        service.now = self.clock.boot
        self.store = EventStore(path, seal_beside(path, client_id), self.clock.now)
        self.watch = Watch(Limits() if limits is None else limits)
        self.intake = Intake(
            self.store, self.memory, self.watch, self.clock, issuer=issuer, client_id=ClientId(client_id),
            on_change=self._wake, answered_at=lambda: self.answered_at,
        )  # fmt: skip
        self.answered_at: BootTime | None = None
        self.keys = EventKeys(issuer, transmitter.event_keys, self._keep_keys, self.store.keys, self.clock)
        self.polling = Polling(transmitter, self.store, self.intake, self.keys)
        self.healing = Healing(transmitter, self.store, self.intake, self.polling, self.memory, self.watch, self.clock)
        self.subscribing = Subscribing(transmitter, self.store, self.intake, self.clock, push_url=push_url)
        self.following = Following(
            self.store, self.intake, self.watch, self.healing, self.subscribing, self.clock, lambda: 0.5
        )
        if set_up and not self.store.streams.poll:
            self.store.note(streams=StreamIds("push", "poll", POLL_URL))

    def _wake(self) -> None:
        self.following.wake()

    async def _keep_keys(self, raw: bytes) -> None:
        await self.intake.on_disk(self.store.note, keys=raw)

    async def push(self, compact: bytes) -> bool:
        """As the receiver does it, the answer left out; whether it was taken."""
        try:
            await self.intake.take(compact, self.keys)
        except RefusedEvent:
            return False
        await self.intake.apply_due()
        return True

    def close(self) -> None:
        self.store.close()
