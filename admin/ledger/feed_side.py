"""Everything that tells nodes what the ledger knows, put together and run in one nursery.

The admin application makes one of these, hands `service` to the machine listener and `barrier` to whoever revokes.
Without Redis there is no projector, and nodes live on the HTTPS feed.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from admin.ledger.barrier import Barrier
from admin.ledger.claims import Claims
from admin.ledger.feed_copy import FeedCopy
from admin.ledger.feed_service import FeedService, ReadKeys
from admin.ledger.nodes import KnownNodes
from admin.ledger.projector import Projector, ProjectorStatistics
from admin.ledger.questions import Questions, QuestionsStatistics
from admin.ledger.records_filler import RecordsFiller
from admin.ledger.register import Register
from admin.ledger.reports import Reports
from admin.ledger.sealing import Sealer
from admin.ledger.sql import SqlLedger
from engine.feed.redis_client import RedisClient, Subscription

DEFAULT_BOUND: Final = 1_000_000  # entries kept in the stream


class FeedSideStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page. projector: None = there is no Redis."""

    projector: ProjectorStatistics | None
    questions: QuestionsStatistics


class FeedSide:
    """wall: seconds since 1970. jitter: gives numbers in [0, 1). draw_token: a new random token each time.

    mac_keys: newest first. redis, asked: two links, run by us. keys: reads the body of `/feed/keys`.
    """

    def __init__(
        self,
        ledger: SqlLedger,
        *,
        mac_keys: tuple[bytes, ...],
        redis: RedisClient | None,
        asked: Subscription | None,
        keys: ReadKeys,
        wall: Callable[[], float],
        jitter: Callable[[], float],
        draw_token: Callable[[], bytes],
        bound: int = DEFAULT_BOUND,
    ) -> None:
        sealer = Sealer(mac_keys)
        self._links = [link for link in (redis, asked) if link is not None]
        self.register = Register(ledger.database, wall)
        self.barrier = Barrier(self.register)
        claims, reports = Claims(ledger.database, wall), Reports(ledger.database, wall)
        self.service = FeedService(ledger, self.register, claims, reports, sealer, keys)
        self.projector: Projector | None = None
        if redis is not None:
            copy = FeedCopy(redis)
            filler = RecordsFiller(ledger, copy, sealer, draw_token=draw_token)
            self.projector = Projector(ledger, copy, sealer, filler, bound=bound, jitter=jitter)
        nodes = KnownNodes(ledger)
        self.questions = Questions(self.register, nodes, self.projector, redis, asked, sealer, jitter=jitter)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Ready after the first look at Redis and the first round of questions."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                await nursery.start(link.run)
            if self.projector is not None:
                await nursery.start(self.projector.run)
            await nursery.start(self.questions.run)
            task_status.started()

    def statistics(self) -> FeedSideStatistics:
        """A snapshot."""
        projector = None if self.projector is None else self.projector.statistics()
        return FeedSideStatistics(projector, self.questions.statistics())
