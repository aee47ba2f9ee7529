"""The event keys that this pusher has: the newest is used once the issuer publishes it, until then the one before it.

Keys are files named in the settings, newest first. Each start, and each change of the settings, registers the newest;
it is registered again twice a day, so that it stays published for weeks after the last time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from engine.backoff import Backoff
from engine.clock import Seconds, UnixTime
from engine.config import BadConfig, read_private
from engine.errors import Fault
from engine.events.signing import BadEventKey, EventSigner, PemEventSigner
from engine.telemetry import logs

AGAIN_AFTER: Final = 43_200.0  # seconds: with what it takes to notice, less than a day
LOOK_EVERY: Final = Seconds(60.0)
BACKOFF: Final = Backoff(first=Seconds(0.5), limit=Seconds(60.0))

_log = logs.logger("pusher")


class Registrar(Protocol):
    """What is needed of the push service."""

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        """The key's kid, and until when it is published. Raises Fault."""


def read_event_keys(files: Sequence[Path]) -> list[PemEventSigner]:
    """Newest first. Raises BadConfig: one that others may read, or that is no P-256 key."""
    return [_read(path) for path in files]


def _read(path: Path) -> PemEventSigner:
    try:
        return PemEventSigner.from_pem(read_private(path))
    except BadEventKey as fault:
        raise BadConfig(f"{path}: {fault.text}") from fault


class EventKeys:
    """wall: seconds since 1970. jitter: draws from [0, 1)."""

    def __init__(
        self,
        keys: Sequence[EventSigner],
        registrar: Registrar,
        *,
        pusher_id: str,
        issuer: str,
        wall: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._keys = list(keys)
        self._registrar = registrar
        self._pusher_id = pusher_id
        self._issuer = issuer
        self._wall = wall
        self._jitter = jitter
        self._current: EventSigner | None = None
        self._registered_at: dict[str, float] = {}
        self._until: dict[str, int] = {}
        self._ready = trio.Event()
        self._changed = trio.Event()

    def signer(self) -> EventSigner:
        """The key to use now; after `wait_ready`."""
        if self._current is None:
            raise RuntimeError("no event key is published yet")
        return self._current

    async def wait_ready(self) -> None:
        """Until one is published."""
        await self._ready.wait()

    @property
    def published_until(self) -> int:
        """Of the key in use, seconds since 1970; 0 = there is none."""
        return self._until.get(self._current.public.kid, 0) if self._current else 0

    def change(self, keys: Sequence[EventSigner]) -> None:
        """Other keys, newest first. The one in use stays so until a newer one is published."""
        self._keys = list(keys)
        self._changed.set()

    async def run(self) -> None:
        """Keep the newest registered, for ever."""
        failures = 0
        while True:
            self._changed = trio.Event()
            try:
                await self._register(self._keys[0])
                failures, pause = 0, LOOK_EVERY
            except Fault as fault:
                failures += 1
                _log.warning("event_key_not_registered", text=fault.text, detail=fault.detail, failures=failures)
                pause = BACKOFF.delay(failures + 1, self._jitter())
                await self._fall_back()
            with trio.move_on_after(pause):
                await self._changed.wait()

    async def _fall_back(self) -> None:
        """The newest is refused: at a start an older one may not be; later the one in use must stay published."""
        for older in self._keys[1:] if self._current is None else self._in_use():
            try:
                await self._register(older)
            except Fault as fault:
                _log.warning("event_key_not_registered", text=fault.text, detail=fault.detail)
            else:
                return

    def _in_use(self) -> list[EventSigner]:
        """The key that signs now, unless it is the newest, which was just tried."""
        current = self._current
        return [] if current is None or current.public.kid == self._keys[0].public.kid else [current]

    async def _register(self, key: EventSigner) -> None:
        kid, now = key.public.kid, self._wall()
        if now - self._registered_at.get(kid, float("-inf")) >= AGAIN_AFTER:
            statement = key.sign_key_statement(self._pusher_id, self._issuer, UnixTime(int(now)))
            _, self._until[kid] = await self._registrar.register_event_key(statement)
            self._registered_at[kid] = now
            _log.info("event_key_published", kid=kid, until=self._until[kid])
        self._current = key
        self._ready.set()
