"""The feed service as a node's process has it: its files checked at once, its client loaded at the first call.

httpx2 takes a quarter of a process's start, and a node that kept its replica answers, and asks Redis, without it.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from engine.clock import Seconds
from engine.config import Feed
from engine.feed.entries import Position
from engine.feed.feed_tls import feed_tls
from engine.feed.questions import Answer, Question

if TYPE_CHECKING:
    from engine.feed.https import FeedClient


class FeedAccess:
    """A `FeedClient`, call by call; faults are its own. Raises BadConfig when its files cannot be used."""

    def __init__(self, settings: Feed) -> None:
        self._settings = settings
        self._url = settings.url
        self._tls = self._shown = feed_tls(settings)  # as the files are, as the client has it
        self._client: FeedClient | None = None
        self._loading = trio.Lock()

    def reload(self) -> None:
        """Read certificate, key and authority again, for calls to come. Raises BadConfig, and then keeps the old."""
        self._tls = feed_tls(self._settings)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `FeedClient.snapshot`."""
        client = await self._loaded()
        async with client.snapshot() as sealed:
            yield sealed

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        """See `FeedClient.entries`."""
        return await (await self._loaded()).entries(after, wait)

    async def check(self, question: Question) -> Answer:
        """See `FeedClient.check`."""
        return await (await self._loaded()).check(question)

    async def keys(self) -> bytes:
        """See `FeedClient.keys`."""
        return await (await self._loaded()).keys()

    async def report(self, idempotency_key: str, body: bytes) -> None:
        """See `FeedClient.report`."""
        await (await self._loaded()).report(idempotency_key, body)

    async def claim(self, consent_id: str, edp: str, share_id: str) -> bool:
        """See `FeedClient.claim`."""
        return await (await self._loaded()).claim(consent_id, edp, share_id)

    async def register_answer_key(self, statement: bytes) -> tuple[str, int]:
        """See `FeedClient.register_answer_key`."""
        return await (await self._loaded()).register_answer_key(statement)

    async def _loaded(self) -> "FeedClient":
        async with self._loading:
            if self._client is None:
                self._shown = self._tls
                self._client = await trio.to_thread.run_sync(_load, self._url, self._shown)
        if self._shown is not self._tls:
            self._shown = self._tls
            await self._client.renew(self._shown)  # calls under way end on their connections
        return self._client


def _load(url: str, tls: ssl.SSLContext) -> "FeedClient":
    """In a thread: requests go on meanwhile."""
    from engine.feed.https import FeedClient  # noqa: PLC0415 - see the module's own words

    return FeedClient(url, tls)
