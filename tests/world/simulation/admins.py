"""An admin process: everything of the ledger's side that the freshness promise rests on, on a database and a Redis."""

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import msgspec
import trio

from admin.consents.ends import NotRevoked
from admin.consents.forms import RevokeForm
from admin.consents.service import Consents
from admin.ledger.barrier import Barrier, Effect
from admin.ledger.claims import Claim, Claims
from admin.ledger.events import Act, ConsentRevoked
from admin.ledger.feed_copy import FeedCopy
from admin.ledger.feed_service import FeedService
from admin.ledger.nodes import KnownNodes
from admin.ledger.projector import Projector
from admin.ledger.questions import Questions
from admin.ledger.records_filler import RecordsFiller
from admin.ledger.register import Register
from admin.ledger.reports import Reports
from admin.ledger.sealing import Sealer
from admin.ledger.sql import SqlLedger
from admin.ledger.store import Append, Idempotency, Receipt
from admin.recovery.reading import RecoveryReader
from admin.recovery.service import RecoveryService
from admin.writing import write
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentId
from engine.feed.entries import Position
from engine.feed.questions import Question
from tests.support.consents import METER_KEY
from tests.support.replicas import MAC_KEY
from tests.world.simulation.clients import act_of
from tests.world.simulation.ledger import HeldUp, MadeDatabase
from tests.world.simulation.machines import Process
from tests.world.simulation.redis_links import Link

if TYPE_CHECKING:
    from tests.world.simulation.world import World

SEALER = Sealer((MAC_KEY,))
STREAM_LENGTH = 100_000


class Done(msgspec.Struct, frozen=True):
    """What a call that writes says. effect: None = nobody asked to wait."""

    receipt: Receipt
    effect: Effect | None = None


class Admin:
    """The parts of one life of an admin process; a restart makes new ones."""

    def __init__(self, world: "World", number: int, process: Process) -> None:
        self._world, self.number, self.process = world, number, process
        random = world.random
        wires = world.admin_wires[number]
        made = world.store.made
        self.database = MadeDatabase(world.store, wires.database, world.chance)
        self.ledger = SqlLedger(
            self.database,
            made.safe,
            made.signer,
            world.admin_clock,
            wall=world.admin_clock.wall,
            checkpoint_every=10_000,
        )
        self.register = Register(self.database, world.admin_clock.wall)
        self.link = Link(world.redis, wires.redis, random, world.hints)
        copy = FeedCopy(self.link)
        draw = lambda: random.randbytes(16)  # noqa: E731 - said twice
        filler = RecordsFiller(
            HeldUp(self.ledger, wires.filler), copy, SEALER, draw_token=draw, progress=lambda _: None
        )
        self.projector = Projector(
            HeldUp(self.ledger, wires.projector),
            copy,
            SEALER,
            filler,
            bound=STREAM_LENGTH,
            jitter=random.random,
        )
        self.questions = Questions(
            self.register,
            KnownNodes(self.ledger),
            self.projector,
            self.link,
            cast("Any", world.hints.subscribe()),
            SEALER,
            jitter=random.random,
        )
        self.barrier = Barrier(self.register)
        self.consents = Consents(self.ledger, METER_KEY, world.admin_clock.now)
        self.reports = Reports(self.database, world.admin_clock.wall)
        self.claims = Claims(self.database, world.admin_clock.wall)
        self.recovery_reader = RecoveryReader(self.ledger)
        self.recovery = RecoveryService(self.ledger, self.recovery_reader, world.admin_clock.now)
        self.feed = FeedService(
            self.ledger,
            self.register,
            self.claims,
            self.reports,
            SEALER,
            self._keys,
            cast("Any", None),
            self.recovery.take_from_nodes,
            self.recovery_reader.refuse_claims,
        )

    async def main(self, _: Process) -> None:
        """What runs beside the calls."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.ledger.run)
            nursery.start_soon(self.projector.run)
            nursery.start_soon(self.questions.run)
            self._world.admin_is_up(self)

    async def revoke(self, consent_id: ConsentId, key: Idempotency, wait: Seconds) -> Done:
        """As the endpoint does it: recorded, then waited for. Raises the faults of both."""
        act = act_of(key)
        written = await self.consents.revoke(consent_id, RevokeForm(reason="withdrawn"), act, key)
        receipt = await self._standing(consent_id, act) if written.receipt.replayed else written.receipt
        return Done(written.receipt, await self.barrier.wait_effective(receipt, wait))

    async def _standing(self, consent_id: ConsentId, act: Act) -> Receipt:
        incarnation = await self.consents.incarnation()
        event, state = await self.consents.find(consent_id, act)
        if not isinstance(event, ConsentRevoked):
            raise NotRevoked("the consent was not revoked")
        position = Position(incarnation, state.event.position.seq)
        return Receipt(position, state.version, float(state.event.recorded_at) + 1)

    async def grant(self, append: Append, key: Idempotency) -> Done:
        """A consent whose event was worked out by the caller."""
        return Done((await write(self.ledger, append.subject, lambda _: append, key)).receipt)

    async def snapshot(self) -> list[bytes]:
        async with aclosing(self.feed.snapshot()) as chunks:
            return [chunk async for chunk in chunks]

    async def check(self, question: Question) -> tuple[str, int]:
        position = await self.register.check(question)
        return position.incarnation, position.seq

    async def report(self, node_id: ClientId, key: str, body: bytes) -> None:
        """As the endpoint does it: kept, then made use of."""
        await self.reports.take(node_id, key, body)
        await self.feed.take_reports(node_id, body)

    async def let_live(self, act: Act, key: Idempotency) -> tuple[str, ...]:
        """An operator who looks where the recovery stands, and names whatever is still missing."""
        standing = await self.recovery_reader.standing()
        event, _ = await self.recovery.go_live(act, frozenset(standing.obstacles), key)
        return event.without

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> bool:
        await self.feed.may_claim()
        return await self.claims.take(Claim(consent_id, edp, share_id))

    async def _keys(self) -> bytes:
        return self._world.store.made.keys
