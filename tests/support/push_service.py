"""The ledger's side of pushes in memory, with its exact semantics: the model that simulations run the pusher against.

Lease epochs, writes fenced by them, bytes that were kept first win, what is done stays done, roster versions that count
streams' and directory's changes only. It is held to the contract of the real ones, `tests/contracts/push_service.py`.
Parked ones are freed in portions, as the real one's are when it breaks off in the middle.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec
import trio

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role, Thumbprint
from engine.errors import Fault, Kind
from engine.events.facts import ConsentFact, Fact, PartyFact, StreamFact, VerificationFact
from engine.events.sets import drawn_jti, event_jti
from engine.events.signing import read_event_key_statement
from engine.pusher.service import (
    Checkpoint,
    Delivery,
    Fate,
    Lane,
    Lease,
    LeaseHeld,
    LeaseLost,
    Outcome,
    Receiver,
    Roster,
    Signed,
)
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.tokens.keys import Jwk

LEASE: Final = Seconds(3.0)
AT_ONCE: Final = Seconds(0.0)
FREED: Final = 100  # parked deliveries of one call
ISSUER: Final = "https://ccs.example"
PUSHER: Final = "pusher-1"
KEPT_FOR: Final = 8 * 86_400  # seconds that an event key is published after it was stated
CHECKPOINT: Final = Checkpoint("a" * 32, 7, "hash", "kid", "signature")


class Unreachable(Fault):
    """The call did not get there, or its answer did not come back."""

    kind = Kind.UNAVAILABLE


class Row(msgspec.Struct):
    """One delivery with what has become of it. pushed: its receiver had a push stream for it."""

    delivery: Delivery
    fate: Fate = Fate.AGAIN
    error: str = ""
    told: int = 0
    pushed: bool = True


def push_stream_of(client_id: str, role: Role, **fields: object) -> StreamRecord:
    stream = StreamRecord(
        f"stream-{client_id}",
        ClientId(client_id),
        role,
        DeliveryMethod.PUSH,
        StreamStatus.ENABLED,
        endpoint_url=f"https://{client_id}.example/events",
    )
    return msgspec.structs.replace(stream, **fields)


class MemoryPushService:
    """`PushService`. wall: seconds since 1970. latency: of every call. fails: consulted before and after each."""

    def __init__(
        self,
        wall: Callable[[], float],
        *,
        latency: Seconds = AT_ONCE,
        fails: Callable[[str, str], bool] = lambda _call, _when: False,
    ) -> None:
        self._wall = wall
        self.latency = latency
        self.fails = fails
        self.lease_seconds = LEASE
        self.rows: dict[int, Row] = {}
        self.receivers: dict[ClientId, Receiver] = {}
        self.version = 0
        self.seq = 10
        self.calls: dict[str, int] = {}
        self.first_bytes: dict[int, bytes] = {}
        self.checkpoint = CHECKPOINT
        self.published: dict[Jwk, int] = {}  # event keys, and until when
        self._holder: str | None = None
        self._epoch = 0
        self._told = 0  # the newest batch under this epoch
        self._ends_at = 0.0
        self._changed = trio.Event()
        self._number = 0
        self._numbers: dict[tuple[Lane, ClientId | None], list[int]] = {}  # all of a lane, and of each receiver in it

    # What the ledger does.

    def enrol(self, client_id: str, role: Role = Role.EDP, *, stream: StreamRecord | None = None) -> StreamRecord:
        """A participant with an enabled push stream, or with the one that is given."""
        made = stream or push_stream_of(client_id, role)
        known = self.receivers.get(ClientId(client_id))
        last_seq = known.last_seq if known else 0
        thumbprint = Thumbprint(client_id.encode().ljust(32, b"\0"))
        self.receivers[ClientId(client_id)] = Receiver(
            ClientId(client_id), role, suspended=False, certificates=(thumbprint,), streams=(made,), last_seq=last_seq,
            stream_seq=self.version + 1,
        )  # fmt: skip
        self._change()
        return made

    def register(self, client_id: str, *thumbprints: bytes) -> None:
        """Its certificates in the directory."""
        receiver = self.receivers[ClientId(client_id)]
        certificates = tuple(Thumbprint(one) for one in thumbprints)
        self.receivers[ClientId(client_id)] = msgspec.structs.replace(receiver, certificates=certificates)
        self._change()

    def commit(self, fact: Fact, *receivers: str, lane: Lane = Lane.ENDS) -> list[Delivery]:
        """An event is written down, and the outbox has it for these receivers."""
        framework = isinstance(fact, VerificationFact | StreamFact)
        self.seq += 0 if framework else 3
        made = [self._row(fact, ClientId(client_id), lane, framework=framework) for client_id in receivers]
        self._wake()
        return made

    def _row(self, fact: Fact, client_id: ClientId, lane: Lane, *, framework: bool) -> Delivery:
        receiver = self.receivers[client_id]
        number = self._number + 1
        jti = (
            event_jti(fact, ISSUER, client_id)
            if isinstance(fact, ConsentFact | PartyFact)
            else drawn_jti(number.to_bytes(16))
        )
        made = Delivery(
            number=number,
            client_id=client_id,
            role=receiver.role,
            lane=lane,
            seq=0 if framework else self.seq,
            prev=0 if framework else receiver.last_seq,
            jti=jti,
            txn=f"txn-{self.seq}",
            fact=fact,
            committed_at=self._wall(),
        )
        self.write(made)
        if not framework:
            self.receivers[client_id] = msgspec.structs.replace(receiver, last_seq=self.seq)
        return made

    def write(self, made: Delivery, *, pushed: bool = True) -> None:
        """One delivery, under the next number; whoever waits is woken by `follow` or `commit`."""
        self._number += 1
        assert made.number == self._number
        self.rows[made.number] = Row(made, pushed=pushed)
        for key in ((made.lane, None), (made.lane, made.client_id)):
            self._numbers.setdefault(key, []).append(made.number)

    @property
    def next_number(self) -> int:
        return self._number + 1

    def follow(self, receivers: Iterable[Receiver], version: int, checkpoint: Checkpoint) -> None:
        """All possible receivers as a ledger has them at a position, and the roster's version there."""
        self.receivers = {one.client_id: one for one in receivers}
        self.version, self.checkpoint = version, checkpoint
        self._wake()

    def _change(self) -> None:
        self.version += 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What tests ask.

    def fates(self) -> dict[int, Fate]:
        return {number: row.fate for number, row in self.rows.items()}

    @property
    def pending(self) -> list[int]:
        return [number for number, row in self.rows.items() if row.fate is Fate.AGAIN and row.pushed]

    # The port.

    async def lease(self, holder: str, epoch: int | None) -> Lease:
        await self._called("lease")
        if epoch is not None:
            if epoch != self._epoch or holder != self._holder:
                raise LeaseLost("the lease has passed on")
        elif self._wall() >= self._ends_at:
            self._epoch, self._told = self._epoch + 1, 0
        elif self._holder != holder:
            raise LeaseHeld("another pusher works")
        self._holder, self._ends_at = holder, self._wall() + self.lease_seconds
        lease = Lease(self._epoch, self.lease_seconds)
        await self._answered("lease")
        return lease

    async def release(self, epoch: int) -> None:
        await self._called("release")
        if epoch == self._epoch:
            self._holder, self._ends_at = None, 0.0

    async def roster(self, after: int, wait: Seconds) -> Roster | None:
        await self._called("roster")
        await self._wait(lambda: self.version > after, wait)
        if self.version <= after:
            return None
        with_streams = [self.receivers[one] for one in sorted(self.receivers) if self.receivers[one].streams]
        return Roster(self.version, tuple(with_streams), self.checkpoint)

    async def fresh(self, lane: Lane, after: int, limit: int, wait: Seconds) -> Sequence[Delivery]:
        await self._called("fresh")

        def found() -> list[Delivery]:
            return list(islice((one for one in self._pending(lane, after) if self._is_for_now(one)), limit))

        await self._wait(lambda: bool(found()), wait)
        page = found()
        await self._answered("fresh")
        return page

    async def backlog(self, client_id: ClientId, lane: Lane, after: int, limit: int) -> Sequence[Delivery]:
        await self._called("backlog")
        return list(islice(self._pending(lane, after, client_id), limit))

    async def keep(self, epoch: int, signed: Sequence[Signed]) -> Sequence[Signed]:
        await self._called("keep")
        self._fence(epoch)
        for one in signed:
            row = self.rows.get(one.number)
            if row is not None and row.delivery.signed is None:
                row.delivery = msgspec.structs.replace(row.delivery, signed=one.compact)
                self.first_bytes[one.number] = one.compact
        await self._answered("keep")
        there = sorted(one.number for one in signed if one.number in self.rows)
        standing = [(number, self.rows[number].delivery.signed) for number in there]
        return [Signed(number, compact) for number, compact in standing if compact is not None]

    async def unsigned(self, after: int, limit: int, wait: Seconds, *, bulk: bool = False) -> Sequence[Delivery]:
        await self._called("unsigned")

        def found() -> list[Delivery]:
            rows = (self.rows[number].delivery for number in range(after + 1, self._number + 1) if number in self.rows)
            wanted = (one for one in rows if one.signed is None and (one.lane is Lane.BULK) == bulk)
            return list(islice(wanted, limit))

        await self._wait(lambda: bool(found()), wait)
        return found()

    async def tell(self, epoch: int, outcomes: Sequence[Outcome], batch: int) -> None:
        await self._called("tell")
        self._fence(epoch)
        is_new, self._told = batch > self._told, max(batch, self._told)
        for one in outcomes if is_new else ():
            row = self.rows.get(one.number)
            if row is None or row.fate in (Fate.DONE, Fate.EXPIRED) or not row.pushed:
                continue
            row.fate, row.error, row.told = one.fate, one.error, row.told + 1
            row.delivery = msgspec.structs.replace(row.delivery, attempts=one.attempts, next_at=one.next_at)
        await self._answered("tell")

    async def unpark(self, epoch: int, client_id: ClientId, at: UnixTime) -> int:
        await self._called("unpark")
        self._fence(epoch)
        rows = [row for row in self.rows.values() if row.fate is Fate.PARKED and row.delivery.client_id == client_id]
        for row in rows[:FREED]:
            row.fate = Fate.AGAIN
            row.delivery = msgspec.structs.replace(row.delivery, attempts=0, next_at=float(at))
        return len(rows[:FREED])

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        await self._called("register_event_key")
        now = UnixTime(int(self._wall()))
        stated = read_event_key_statement(statement, pusher_id=PUSHER, issuer=ISSUER, now=now)
        key = msgspec.convert(msgspec.to_builtins(stated.key), Jwk)
        self.published[key] = min(stated.exp, stated.iat + KEPT_FOR)
        return stated.key.kid, self.published[key]

    def _pending(self, lane: Lane, after: int, client_id: ClientId | None = None) -> Iterator[Delivery]:
        numbers = self._numbers.get((lane, client_id), [])
        for number in numbers[bisect_right(numbers, after) :]:
            row = self.rows[number]
            if row.fate is Fate.AGAIN and row.pushed:
                yield row.delivery

    def _is_for_now(self, delivery: Delivery) -> bool:
        if isinstance(delivery.fact, VerificationFact | StreamFact):
            return True
        pushes = [one for one in self.receivers[delivery.client_id].streams if one.delivery is DeliveryMethod.PUSH]
        return any(one.is_usable and one.status is StreamStatus.ENABLED for one in pushes)

    def _fence(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise LeaseLost("the lease has passed on")

    async def _called(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.latency:
            await trio.sleep(self.latency)
        else:
            await trio.lowlevel.checkpoint()
        if self.fails(name, "before"):
            raise Unreachable(f"{name} was not reached")

    async def _answered(self, name: str) -> None:
        """What was written is written, whatever becomes of the answer."""
        await trio.lowlevel.checkpoint()
        if self.fails(name, "after"):
            raise Unreachable(f"{name} did not answer")

    async def _wait(self, there: Callable[[], bool], wait: Seconds) -> None:
        with trio.move_on_after(wait):
            while not there():
                await self._changed.wait()
