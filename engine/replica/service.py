"""What the feeder needs from the feed service; `engine.feed.https.FeedClient` is the real one."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from engine.clock import Seconds
from engine.feed.entries import Position
from engine.feed.questions import Answer, Question


class FeedService(Protocol):
    """The ledger's side, over mTLS: what it says of positions and incarnations is believed."""

    def snapshot(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Sealed entries between two marks (`engine.feed.snapshots`)."""

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        """Sealed entries after a position; waits up to `wait` seconds for the first; may be empty.

        A fault of kind CONFLICT: the position is of an incarnation that is over.
        """

    async def check(self, question: Question) -> Answer:
        """The ledger's position, read while we wait."""

    async def keys(self) -> bytes:
        """The verification keys, JSON."""

    async def report(self, idempotency_key: str, body: bytes) -> None:
        """Hand over a JSON array of reports; the same key may be sent again."""
