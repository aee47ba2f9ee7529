"""The keys that the service signs its answers with, as the issuer publishes them.

Fetched when the first signed answer is to be read, and anew when an answer names a key that is not among them: at most
once a minute, whoever asks. Only the address that was configured is ever asked; nothing in a message leads anywhere.
"""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import anyio

from engine.clock import Seconds
from engine.guard.calls import Call, CallFailed, Transport
from engine.guard.retry import TOTAL
from engine.tokens.keys import BadKeySet, KeySet

MOST_OFTEN: Final = Seconds(60.0)
AFTER_FAILURE: Final = Seconds(5.0)


class AnswerKeys:
    """The newest good set. now: monotonic seconds."""

    def __init__(self, url: str, issuer: str, transport: Transport, now: Callable[[], float]) -> None:
        parts = urlsplit(url)
        self._origin, self._path = f"{parts.scheme}://{parts.netloc}", (parts.path or "/").encode()
        self._issuer = issuer
        self._transport = transport
        self._now = now
        self._not_before = float("-inf")
        self._turn = anyio.Lock()
        self.current: KeySet | None = None

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
        return self.current is not before

    async def _fetch(self) -> bool:
        """Whether the issuer gave a set, good or not."""
        call = Call(self._path, b"", b"keys", b"application/json", b"application/json", method=b"GET")
        try:
            reply = await self._transport.call(self._origin, call)
            if reply.status != 200:
                return False
            self.current = KeySet.from_jwks(reply.body, self._issuer)
        except CallFailed:
            return False
        except BadKeySet:
            return True
        return True
