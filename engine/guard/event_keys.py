"""The keys that events are signed with, fetched again when an unknown one is named, at most once a minute.

And after a poll where the set is ten minutes old: a key that was stolen and is published no more must not be trusted
until another one happens to be named.

Kept with the events, so that a guard which starts while the issuer is away can read what is pushed to it.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from engine.clock import Clock, Seconds
from engine.errors import Fault, Kind
from engine.guard.transmitter import TooManyCalls
from engine.telemetry import logs
from engine.tokens.keys import BadKeySet, KeySet

REFETCH: Final = Seconds(60.0)  # whoever can make us see new kids must not make us call at will
FRESHEN_EVERY: Final = Seconds(600.0)
AFTER_FAILURE: Final = Seconds(5.0)

_log = logs.logger("events")


class KeysUnavailable(Fault):
    """No key set could be fetched: whether the event is genuine cannot be said now."""

    kind = Kind.UNAVAILABLE


class EventKeys:
    """fetch: the body of the issuer's event key set; raises Fault. kept: that body as `keep` kept it, b"" = never."""

    def __init__(
        self,
        issuer: str,
        fetch: Callable[[], Awaitable[bytes]],
        keep: Callable[[bytes], Awaitable[None]],
        kept: bytes,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._keep = keep
        self._clock = clock
        self._lock = anyio.Lock()
        self._next_fetch = self._old_at = 0.0
        self._failed = False
        self._keys = self._read(kept) if kept else None

    async def current(self) -> KeySet:
        """The set at hand, fetched if there is none. Raises KeysUnavailable."""
        return self._keys or await self.with_kid(None)

    async def with_kid(self, kid: str | None) -> KeySet:
        """A set that holds this kid, or the newest that may be had now; None: any. Raises KeysUnavailable."""
        async with self._lock:  # those who come meanwhile find what the first one fetched
            if self._keys is None or (kid is not None and kid not in self._keys.kids):
                await self._refetch()
            if self._keys is None or (self._failed and kid not in self._keys.kids):
                raise KeysUnavailable("the event keys cannot be fetched now")
            return self._keys

    async def freshen(self) -> None:
        """Fetch the set again where it is old. Where that fails, what is at hand serves on."""
        async with self._lock:
            if self._keys is not None and self._clock.boot() >= self._old_at:
                await self._refetch()

    async def _refetch(self) -> None:
        now = self._clock.boot()
        if now < self._next_fetch:
            return
        try:
            raw = await self._fetch()
            keys = KeySet.from_jwks(raw, self._issuer)
            await self._keep(raw)
        except Fault as fault:
            _log.warning("event_keys_not_fetched", text=fault.text, detail=fault.detail)
            wait = fault.wait if isinstance(fault, TooManyCalls) else AFTER_FAILURE
            self._failed, self._next_fetch = True, now + max(wait, AFTER_FAILURE)
        else:
            self._keys, self._failed = keys, False
            self._next_fetch, self._old_at = now + REFETCH, now + FRESHEN_EVERY

    def _read(self, raw: bytes) -> KeySet | None:
        try:
            return KeySet.from_jwks(raw, self._issuer)
        except BadKeySet:
            return None
