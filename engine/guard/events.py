"""All of a guard that has to do with events, put together from its settings: receiver, polls, listings, streams.

    async with GuardEvents(config, memory, clock, jitter=random.random) as events:
        await task_group.start(events.run)

Runs on trio and on asyncio. Without a `receiver` in the settings it lives on polls and listings alone.
"""

import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskStatus

from engine.clock import BootTime, Clock, UnixTime
from engine.config import BadConfig
from engine.consent.records import ClientId
from engine.guard.config import GuardConfig, Receiver
from engine.guard.event_file import seal_of
from engine.guard.event_keys import EventKeys
from engine.guard.event_store import EventStore
from engine.guard.following import Following
from engine.guard.healing import Healing
from engine.guard.intake import Intake
from engine.guard.memory import Memory
from engine.guard.polling import Polling
from engine.guard.receiver import PushReceiver
from engine.guard.subscribing import Subscribing
from engine.guard.transmitter import Transmitter
from engine.guard.transmitter_https import HttpsTransmitter
from engine.guard.watch import Limits, Standing, Watch

FILE: Final = "events.sqlite"  # in the directory of the guard's memory


class EventsStatus(msgspec.Struct, frozen=True):
    """How things stand. Times: seconds since 1970; None: never. ahead: events that wait for what lies before them.

    refused: by `err`, since the start. push_status: `enabled`, `paused` … as the service said; "" = no push stream.
    """

    standing: Standing
    missing_since: UnixTime | None
    last_seq: int
    ahead: int
    last_push_at: float | None
    last_heartbeat_at: float | None
    last_poll_at: float | None
    taken: int
    repeated: int
    unknown: int
    refused: dict[str, int]
    security_events: int
    push_status: str
    port: int
    anew: int  # how often an empty file has taken the place of one that could not be trusted, since the start


class GuardEvents:
    """Raises BadConfig and StoreDown when it is made; MemoryFull.

    answered_at: when the service last answered an introspection with `current`, by the boot clock; see `Watch`.
    transmitter: another way to the service than HTTPS, for tests.
    """

    def __init__(
        self,
        config: GuardConfig,
        memory: Memory,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        answered_at: Callable[[], BootTime | None] = lambda: None,
        transmitter: Transmitter | None = None,
    ) -> None:
        self._memory = memory
        self._config = config
        tls, machine_url = service_tls(config), config.service.machine_url
        self._https = HttpsTransmitter(config.issuer, machine_url, config.event_jwks_url, tls)
        service = self._https if transmitter is None else transmitter
        receiver, issuer, client_id = config.events.receiver, config.issuer, ClientId(config.client_id)
        store = self._store = EventStore(
            config.store.directory / FILE, seal_of(config.store, config.client_id), clock.now
        )
        watch = Watch(limits_of(config))
        self._intake = Intake(
            store,
            memory,
            watch,
            clock,
            issuer=issuer,
            client_id=client_id,
            answered_at=answered_at,
            on_change=self._wake,
        )
        keys = EventKeys(issuer, service.event_keys, self._keep_keys, store.keys, clock)
        polling = Polling(service, store, self._intake, keys)
        healing = Healing(service, store, self._intake, polling, memory, watch, clock)
        push_url = None if receiver is None else push_url_of(receiver)
        self._subscribing = Subscribing(service, store, self._intake, clock, push_url=push_url)
        self._following = Following(store, self._intake, watch, healing, self._subscribing, clock, jitter)
        self._receiver = None if receiver is None else PushReceiver(receiver, self._intake, keys, clock)

    async def __aenter__(self) -> "GuardEvents":
        """Apply what an earlier process has acknowledged and not applied, before any share is judged.

        Raises StoreDown, MemoryFull: then, and where this is cancelled, nothing stays open.
        """
        try:
            await self._intake.apply_due()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
                await self._https.aclose()
        finally:
            self._store.close()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once pushes are taken. Raises CannotListen."""
        async with anyio.create_task_group() as tasks:
            if self._receiver is not None:
                await tasks.start(self._receiver.run)
            task_status.started()
            await self._following.run()

    def reload(self) -> None:
        """Take certificates and authorities anew, for new connections. Raises BadConfig: then nothing has changed."""
        tls = service_tls(self._config)
        if self._receiver is not None:
            self._receiver.reload()
        self._https.renew(tls)

    def status(self) -> EventsStatus:
        """A frozen record of now."""
        counts = self._intake.statistics()
        receiver = self._receiver
        heartbeat = self._intake.heartbeat_at
        return EventsStatus(
            standing=self._intake.standing(),
            missing_since=self._memory.missing_since(),
            last_seq=counts.last_seq,
            ahead=counts.ahead,
            last_push_at=None if receiver is None else receiver.pushed_at,
            last_heartbeat_at=None if heartbeat is None else float(heartbeat),
            last_poll_at=self._following.asked_at,
            taken=counts.taken,
            repeated=counts.repeated,
            unknown=counts.unknown,
            refused=counts.refused,
            security_events=counts.security_events,
            push_status=self._subscribing.push_status,
            port=0 if receiver is None else receiver.port,
            anew=self._store.anew,
        )

    def _wake(self) -> None:
        self._following.wake()

    async def _keep_keys(self, raw: bytes) -> None:
        await self._intake.on_disk(self._store.note, keys=raw)


def limits_of(config: GuardConfig) -> Limits:
    """How long the guard waits for what."""
    events = config.events
    return Limits(events.reorder_wait, events.silence_limit, events.poll_interval, events.receiver is not None)


def push_url_of(receiver: Receiver) -> str:
    """The address as the service shall call it."""
    return receiver.public_url or f"https://{receiver.host}:{receiver.port}/events"


def service_tls(config: GuardConfig) -> ssl.SSLContext:
    """With the EDP's certificate and the service's authority. Raises BadConfig."""
    service = config.service
    try:
        tls = ssl.create_default_context(cafile=str(service.ca_file))
        tls.load_cert_chain(service.certificate_file, service.key_file)
    except (OSError, ssl.SSLError) as error:
        files = f"{service.certificate_file}, {service.key_file}, {service.ca_file}"
        raise BadConfig(f"service: {files} cannot be read: {error}") from error
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    return tls
