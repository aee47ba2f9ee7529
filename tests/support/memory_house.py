"""A house whose outbox is in memory: the model of simulations, behind a real ledger by the rules of the real outbox."""

import secrets
from typing import Any, Final

from admin.ledger.outbox import Book, Push, framework_lane
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId
from engine.events.facts import VerificationFact
from engine.events.sets import drawn_jti
from engine.pusher.service import Checkpoint, Delivery, Receiver
from engine.pusher.streams import DeliveryMethod
from engine.tokens.keys import Jwk
from tests.support.ledger import HandClock
from tests.support.outboxes import ISSUER, House
from tests.support.push_service import CHECKPOINT, MemoryPushService

BATCH: Final = 500


class MemoryKeys:
    """What is published of a model's event keys."""

    def __init__(self, memory: MemoryPushService, clock: HandClock) -> None:
        self._memory = memory
        self._clock = clock

    async def published(self) -> tuple[Jwk, ...]:
        return tuple(key for key, until in self._memory.published.items() if until > self._clock.wall())


class MemoryHouse:
    """What the contract asks of a house. Its ledger is real; what is derived from it is the model's."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._book = Book(ISSUER, 0, 0, 0)
        self._changed: dict[str, int] = {}  # streams, and where in the ledger
        self.lease_offset = 0.0
        self.memory = MemoryPushService(lambda: house.clock.wall() + self.lease_offset)
        self.keys = MemoryKeys(self.memory, house.clock)
        self.outbox = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._house, name)

    async def settle(self) -> None:
        book = self._book
        while events := await self._house.ledger.events(book.seq, BATCH):
            for stored in events:
                for draft in book.take(stored):
                    seen_at = max(self._house.clock.wall(), draft.recorded_at)
                    made = Delivery(
                        self.memory.next_number, draft.client_id, draft.role, draft.lane, draft.seq, draft.prev,
                        draft.jti, draft.txn, draft.fact, min(seen_at, draft.recorded_at + 0.999),
                    )  # fmt: skip
                    self.memory.write(made, pushed=draft.push is Push.PENDING)
                self._changed |= dict.fromkeys(book.changed_streams, book.seq)
                book.settle()
        self.memory.follow(self._receivers(), book.roster_seq, await self._checkpoint())

    def _receivers(self) -> list[Receiver]:
        return [
            Receiver(
                client_id, member.record.role, member.record.suspended,
                tuple(one.thumbprint for one in member.record.certificates),
                tuple(one for one in self._book.streams.values() if one.client_id == client_id), member.last_seq,
                self._stream_seq(client_id),
            )
            for client_id, member in self._book.members.items()
        ]  # fmt: skip

    def _stream_seq(self, client_id: ClientId) -> int:
        stream = self._book.stream_of(client_id, DeliveryMethod.PUSH)
        return 0 if stream is None else self._changed[stream.stream_id]

    async def _checkpoint(self) -> Checkpoint:
        """The ledger's newest; the model's own where there is none."""
        roster = await self._house.door.roster(0, Seconds(0.0))
        return CHECKPOINT if roster is None or roster.checkpoint is None else roster.checkpoint

    async def ask_verification(self, stream_id: str, state: str | None = None) -> None:
        stream = self._book.streams[stream_id]
        fact = VerificationFact(stream_id, UnixTime(int(self._house.clock.wall())), state)
        jti = drawn_jti(secrets.token_bytes(32))
        made = Delivery(
            self.memory.next_number, ClientId(stream.client_id), stream.role, framework_lane(fact), 0, 0,
            jti, jti, fact, self._house.clock.wall(),
        )  # fmt: skip
        self.memory.write(made)
