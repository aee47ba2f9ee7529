"""The keys that the service signs its answers with, as the issuer publishes them.

Fetched when the first signed answer is to be read, every ten minutes, so that a key that is published no more goes, and
when an answer names a key that is not among them: at most once a minute, whoever asks. Only the address that was
configured is ever asked; nothing in a message leads anywhere. Where the issuer cannot be asked at a start, what an
earlier process fetched within the last day is used (`engine.guard.kept_keys`).
"""

import contextlib
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import anyio

from engine.clock import Seconds
from engine.guard.calls import Call, CallFailed, Transport
from engine.guard.kept_keys import KeyShelf, NoShelf
from engine.guard.retry import TOTAL
from engine.tokens.keys import BadKeySet, KeySet

MOST_OFTEN: Final = Seconds(60.0)
AFTER_FAILURE: Final = Seconds(5.0)
FRESHEN_EVERY: Final = Seconds(600.0)  # a node's new key waits that long before it signs (decision 0014)


class AnswerKeys:
    """The newest good set. now: monotonic seconds. shelf: where it outlives the process."""

    def __init__(
        self, url: str, issuer: str, transport: Transport, now: Callable[[], float], shelf: KeyShelf | None = None
    ) -> None:
        parts = urlsplit(url)
        self._origin, self._path = f"{parts.scheme}://{parts.netloc}", (parts.path or "/").encode()
        self._issuer = issuer
        self._transport = transport
        self._now = now
        self._not_before = float("-inf")
        self._turn = anyio.Lock()
        self._shelf = shelf or NoShelf()
        self.current: KeySet | None = None
        self.is_kept = False  # an earlier process fetched it

    async def refresh(self) -> bool:
        """Fetch the set, unless that was done within the last minute; whether there is another one than before.

        Takes as long as an attempt at most. A set that cannot be had or must not be used leaves the one before. One
        that could not be had is asked for again after five seconds: without it no signed answer can be read.
        """
        before = self.current
        async with self._turn:
            now = self._now()
            if now < self._not_before:
                return self.current is not before
            self._not_before = now + AFTER_FAILURE
            with anyio.move_on_after(TOTAL):
                if await self._fetch():
                    self._not_before = now + MOST_OFTEN
            if self.current is None:
                self._take_kept()
        return self.current is not before

    async def keep_fresh(self) -> None:
        """For ever: fetch what is published now, so that no key is trusted for long that is published no more."""
        while True:
            before = self.current
            await anyio.sleep(FRESHEN_EVERY if before is not None and not self.is_kept else MOST_OFTEN)
            await self.refresh()

    def _take_kept(self) -> None:
        raw = self._shelf.load()
        if raw is not None:
            with contextlib.suppress(BadKeySet):
                self.current, self.is_kept = KeySet.from_jwks(raw, self._issuer), True

    async def _fetch(self) -> bool:
        """Whether the issuer gave a set, good or not."""
        call = Call(self._path, b"", b"keys", b"application/json", b"application/json", method=b"GET")
        try:
            reply = await self._transport.call(self._origin, call)
            if reply.status != 200:
                return False
            self.current, self.is_kept = KeySet.from_jwks(reply.body, self._issuer), False
        except CallFailed:
            return False
        except BadKeySet:
            return True
        self._shelf.keep(reply.body)
        return True
