"""What runs beside the listeners: the projector, the answering of nodes' questions, the ending of consents, the
signing of checkpoints, the outbox of events for ATPs and EDPs, the watch over them.

Each is supervised: it comes back after a fault, and when it keeps failing the whole process gives up loudly.
"""

import random
import secrets
from collections.abc import Sequence
from time import time
from typing import Final

import trio

from admin.authorization.token_records import RedisTokenRecords, TokenRecords
from admin.config import AdminConfig
from admin.consents.expiry import Expiry
from admin.directory.fallback_rights import FallbackRights
from admin.directory.receiver_watch import ReceiverWatch
from admin.directory.stream_service import Streams
from admin.keys import Secrets
from admin.ledger.answer_keys import AnswerKeys
from admin.ledger.claims import Claims
from admin.ledger.event_keys import EventKeys
from admin.ledger.feed_copy import FeedCopy
from admin.ledger.nodes import KnownNodes
from admin.ledger.outbox_pruning import Pruning
from admin.ledger.outbox_service import Outbox
from admin.ledger.projector import Projector
from admin.ledger.questions import Questions
from admin.ledger.receiver_standing import Standing, read_standings
from admin.ledger.records_filler import RecordsFiller
from admin.ledger.register import Register
from admin.ledger.sealing import Sealer
from admin.ledger.sequencer import Sequencer
from admin.ledger.signal import Signal
from admin.ledger.sql import SqlLedger
from admin.ledger.vouching import Vouching
from admin.measured import MeasuredLedger
from admin.recovery.reading import RecoveryReader
from engine.actors.supervisor import Service, Supervision
from engine.clock import Clock, Seconds
from engine.feed.redis_access import RedisAccess
from engine.feed.redis_client import RedisClient, Subscription
from engine.feed.redis_names import ASKED

PATIENCE: Final = Seconds(1.0)  # with Redis, which answers within milliseconds or not at all


class Background:
    """The parts, put together but not yet running. `register`, `sealer` and `nodes` are shared with the feed."""

    def __init__(
        self, config: AdminConfig, ledger: SqlLedger, keys: Secrets, clock: Clock, *, is_new: bool = False
    ) -> None:
        """is_new: the ledger was made by this process, so that no token was issued yet.

        Raises BadConfig and BadRedisAddress for an address or a file of Redis that cannot be used.
        """
        self.register = Register(ledger.database, time)
        self.sealer = Sealer(keys.mac)
        self.claims = Claims(ledger.database, time)
        kids = frozenset(signer.public.kid for signer in keys.token_signers)
        self.answer_keys = AnswerKeys(ledger.database, KnownNodes(ledger), keys.issuer, kids, time)
        self.event_keys = EventKeys(ledger.database, keys.issuer, kids, time)
        self.outbox = Outbox(ledger.database, Signal(), time)
        self.sequencer = Sequencer(ledger, keys.issuer, self.outbox.news, wall=time, jitter=random.random)
        self.streams = Streams(
            MeasuredLedger(ledger),
            self.outbox,
            clock.now,
            lambda: secrets.token_urlsafe(32),
            private_allowed=config.ledger.kind == "sandbox",
        )
        self.receivers = ReceiverWatch(
            self.streams, FallbackRights(MeasuredLedger(ledger)), self.standings, clock.now, time
        )
        self.expiry = Expiry(MeasuredLedger(ledger), self.claims, clock.now, random.random)
        self.vouching = Vouching(ledger)
        self.recovery = RecoveryReader(ledger)
        self._supervised: list[Supervision] = []
        self._supervise("expiry", self.expiry.run)  # before whatever may have to wait for Redis
        self._supervise("checkpoints", self.vouching.run)
        self._supervise("sequencer", self.sequencer.run)
        self._supervise("pruning", Pruning(ledger.database, time).run)
        self._supervise("receivers", self.receivers.run)
        self.projector: Projector | None = None
        self.token_records: TokenRecords | None = None
        self.links: dict[str, RedisClient] = {}
        self._ledger = ledger
        self._stream_length = config.feed.stream_length
        redis = self._redis(config, keys, is_new=is_new)
        self.questions = Questions(
            self.register,
            KnownNodes(ledger),
            self.projector,
            redis[0] if redis else None,
            redis[1] if redis else None,
            self.sealer,
            jitter=random.random,
        )
        self._supervise("questions", self.questions.run)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run everything until cancelled; ready once each part is, or Redis lets them wait. Raises GaveUp, in a group.

        Writes and the feed over HTTPS need no Redis: one that takes connections and says nothing must not keep the
        listeners shut.
        """
        async with trio.open_nursery() as nursery:
            ready = trio.Event()
            nursery.start_soon(self._start_all, nursery, ready)
            with trio.move_on_after(PATIENCE):
                await ready.wait()
            task_status.started()

    async def _start_all(self, nursery: trio.Nursery, ready: trio.Event) -> None:
        for supervision in self._supervised:
            await nursery.start(supervision.run)
        ready.set()

    async def standings(self) -> Sequence[Standing]:
        """All receivers with streams, and what they are owed. Raises the ledger's faults."""
        return await self._ledger.database.read(read_standings)

    def work(self) -> Sequence[tuple[str, str]]:
        """Each part's name and life, for the status page."""
        lives = [(one.name, str(one.statistics().life.value)) for one in self._supervised]
        if self.projector is not None:
            state = self.projector.statistics()
            lives.append(("projector is", f"{state.state.value}, at {state.position.seq if state.position else '–'}"))
        sequencer = self.sequencer.statistics()
        lives.append(("sequencer is", f"{sequencer.state.value}, at {sequencer.position}"))
        ended = self.expiry.statistics()
        lives.append(("consents ended since the start", str(ended.ended)))
        return lives

    def _redis(self, config: AdminConfig, keys: Secrets, *, is_new: bool) -> tuple[RedisClient, Subscription] | None:
        if config.redis is None:
            return None
        access = RedisAccess(config.redis, jitter=random.random)
        client, asked = access.client("ccs-projector"), access.subscription("ccs-asked", [ASKED])
        lifetime = config.issuer.token_lifetime
        self.token_records = records = RedisTokenRecords(
            client, mac_key=keys.mac[0], meter_key=keys.meter, lifetime=lifetime, is_new=is_new
        )
        copy = FeedCopy(client)
        filler = RecordsFiller(self._ledger, copy, self.sealer, draw_token=lambda: secrets.token_bytes(16))
        self.projector = Projector(
            self._ledger, copy, self.sealer, filler, bound=self._stream_length, jitter=random.random
        )
        self.links = {"commands": client, "subscription": asked}
        self._supervise("redis", client.run)
        self._supervise("token-records", records.vouch)
        self._supervise("redis-subscription", asked.run)
        self._supervise("projector", self.projector.run)
        return client, asked

    def _supervise(self, name: str, service: Service) -> None:
        self._supervised.append(Supervision(name, service))
