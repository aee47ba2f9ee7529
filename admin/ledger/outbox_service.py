"""The outbox in use: what a pusher calls (`engine.pusher.service`), what poll is served from, and who asks for more.

Whoever waits for deliveries is woken by the sequencer, by signed bytes that came, or by a verification that was asked
for; nobody looks again and again.
"""

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger import deliveries, polling, push_lease, stream_calls
from admin.ledger.database import Database
from admin.ledger.event_keys import EventKeys
from admin.ledger.outbox import Draft, framework_lane, framework_ways
from admin.ledger.outbox_figures import OutboxFigures, read_figures
from admin.ledger.push_lease import LEASE, DatabaseClock, database_time
from admin.ledger.roster import read_roster
from admin.ledger.schema import outbox, receivers, streams
from admin.ledger.sequencer import insert_drafts, take_numbers
from admin.ledger.signal import Signal
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, ParticipantRecord
from engine.errors import Fault, Kind
from engine.events import sets
from engine.events.facts import VerificationFact
from engine.pusher.service import Delivery, Lane, Lease, Outcome, Roster, Signed
from engine.pusher.streams import StreamRecord

MAX_DELIVERIES: Final = 500  # in one answer: about a megabyte with signed bytes
MAX_TOLD: Final = 1_000  # in one call
MAX_WAIT: Final = Seconds(30.0)  # of a long poll; below what balancers cut off
UNPARKED_AT_ONCE: Final = 1_000  # rows in one transaction

T = TypeVar("T")
_records: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)


class NoSuchStream(Fault):
    """The outbox knows no such stream, or not yet."""

    kind = Kind.NOT_FOUND


class TooMuchAtOnce(Fault):
    """More than one call takes."""

    kind = Kind.INVALID


class Outbox:
    """news: rings for new deliveries and changed receivers; whoever rings it need not say what.

    wall: seconds since 1970. lease_time: of the database, for the lease.
    """

    def __init__(
        self,
        database: Database,
        news: Signal,
        wall: Callable[[], float],
        *,
        lease_time: DatabaseClock = database_time,
        lease: Seconds = LEASE,
    ) -> None:
        self._database = database
        self._wall = wall
        self._lease_time = lease_time
        self._lease = lease
        self.news = news
        self.signed = Signal()  # rings when there are new signed bytes: poll has something to give

    async def lease(self, holder: str, epoch: int | None) -> Lease:
        """See PushService."""

        def work(connection: sa.Connection) -> Lease:
            now = self._lease_time(connection)
            if epoch is None:
                return push_lease.take(connection, holder, now, self._lease)
            return push_lease.renew(connection, holder, epoch, now, self._lease)

        return await self._database.repeat(work)

    async def release(self, epoch: int) -> None:
        """See PushService."""
        await self._database.repeat(lambda connection: push_lease.release(connection, epoch))

    async def roster(self, after: int, wait: Seconds) -> Roster | None:
        """See PushService."""

        async def look() -> Roster | None:
            return await self._database.read(lambda connection: read_roster(connection, after))

        return await self._wait(look, wait)

    async def fresh(self, lane: Lane, after: int, limit: int, wait: Seconds) -> Sequence[Delivery]:
        """See PushService."""

        async def look() -> Sequence[Delivery]:
            at_most = min(limit, MAX_DELIVERIES)
            return await self._database.read(lambda connection: deliveries.read_fresh(connection, lane, after, at_most))

        return await self._wait(look, wait)

    async def backlog(self, client_id: ClientId, lane: Lane, after: int, limit: int) -> Sequence[Delivery]:
        """See PushService."""
        at_most = min(limit, MAX_DELIVERIES)
        return await self._database.read(
            lambda connection: deliveries.read_backlog(connection, client_id, lane, after, at_most)
        )

    async def unsigned(self, after: int, limit: int, wait: Seconds, *, bulk: bool = False) -> Sequence[Delivery]:
        """See PushService."""

        async def look() -> Sequence[Delivery]:
            at_most = min(limit, MAX_DELIVERIES)
            return await self._database.read(
                lambda connection: deliveries.read_unsigned(connection, after, at_most, bulk=bulk)
            )

        return await self._wait(look, wait)

    async def keep(self, epoch: int, signed: Sequence[Signed]) -> Sequence[Signed]:
        """See PushService."""
        _refuse_too_many(signed)
        now = self._wall()

        def work(connection: sa.Connection) -> list[Signed]:
            push_lease.require(connection, epoch)
            return deliveries.keep(connection, signed, now)

        stands = await self._database.repeat(work)
        self.signed.ring()
        return stands

    async def tell(self, epoch: int, outcomes: Sequence[Outcome], batch: int | None = None) -> None:
        """See PushService. batch: None = of one who makes no call twice."""
        _refuse_too_many(outcomes)

        def work(connection: sa.Connection) -> None:
            push_lease.require(connection, epoch)
            if batch is None or push_lease.is_new(connection, batch):
                deliveries.tell(connection, outcomes)

        await self._database.repeat(work)

    async def unpark(self, epoch: int, client_id: ClientId, at: UnixTime) -> int:
        """See PushService. In steps of one transaction each; a step that fails leaves those before it done."""

        def work(connection: sa.Connection) -> int:
            push_lease.require(connection, epoch)
            return deliveries.unpark(connection, client_id, at, UNPARKED_AT_ONCE)

        done = 0
        while (step := await self._database.repeat(work)) > 0:
            done += step
        return done

    async def poll(
        self, client_id: ClientId, ack: Collection[str], errors: Mapping[str, str], max_events: int
    ) -> polling.Polled:
        """Settle what a receiver acknowledges and refuses (jti to code), then give it the oldest that is left.

        Without waiting: `signed` rings when it is worth asking again. Raises the ledger's faults.
        """
        if ack or errors:
            now = self._wall()
            await self._database.repeat(lambda connection: polling.settle(connection, client_id, ack, errors, now))
        if max_events <= 0:
            return polling.Polled({}, more=False)
        return await self._database.read(lambda connection: polling.read_open(connection, client_id, max_events))

    async def about_stream(self, client_id: ClientId, stream_id: str, max_events: int) -> polling.Polled:
        """As `poll`, of events about the stream itself alone. Raises the ledger's faults."""
        return await self._database.read(
            lambda connection: polling.read_about_stream(connection, client_id, stream_id, max_events)
        )

    async def with_open(self, client_ids: Collection[ClientId]) -> Collection[ClientId]:
        """Those of them that `poll` would give something now: one query for all. Raises the ledger's faults."""
        return await self._database.read(lambda connection: polling.read_with_open(connection, client_ids))

    async def begin_poll(self, stream_id: str, holder: str, seconds: Seconds) -> bool:
        """The right to poll a stream, over all instances; False: another has it. Raises the ledger's faults."""

        def work(connection: sa.Connection) -> bool:
            return stream_calls.begin_poll(connection, stream_id, holder, self._lease_time(connection), seconds)

        return await self._database.repeat(work)

    async def end_poll(self, stream_id: str, holder: str) -> None:
        """Give it back."""
        await self._database.repeat(lambda connection: stream_calls.end_poll(connection, stream_id, holder))

    async def begin_verification(self, stream_id: str, interval: Seconds) -> stream_calls.Asked:
        """See `stream_calls.begin_verification`."""

        def work(connection: sa.Connection) -> stream_calls.Asked:
            return stream_calls.begin_verification(connection, stream_id, self._lease_time(connection), interval)

        return await self._database.repeat(work)

    async def forgo_verification(self, stream_id: str, at: float) -> None:
        """See `stream_calls.forgo_verification`."""
        await self._database.repeat(lambda connection: stream_calls.forgo_verification(connection, stream_id, at))

    async def figures(self) -> OutboxFigures:
        """What is left to be done, for metrics. Raises the ledger's faults."""
        now = self._wall()
        return await self._database.read(lambda connection: read_figures(connection, now))

    async def ask_verification(self, stream_id: str, state: str | None = None) -> None:
        """Have a verification event sent on a stream, with the receiver's own word in it. Raises NoSuchStream."""
        now = self._wall()
        await self._database.repeat(lambda connection: ask_verification(connection, stream_id, state, now))
        self.news.ring()

    async def _wait(self, look: Callable[[], Awaitable[T]], wait: Seconds) -> T:
        """What a look brings, as soon as it brings something; looked for again only when the bell has rung."""
        deadline = trio.current_time() + min(wait, MAX_WAIT)
        while True:
            ringing = self.news.next_ring()  # before the look: what comes in the middle of it is not missed
            found = await look()
            if found or trio.current_time() >= deadline:
                return found
            with trio.move_on_at(deadline):
                await ringing.wait()


def ask_verification(connection: sa.Connection, stream_id: str, state: str | None, now: float) -> None:
    """Write a verification event for a stream as the outbox knows it. Raises NoSuchStream.

    The outbox's row is locked before the stream is looked for: one that is deleted meanwhile would leave the event to
    its successor. Challenges follow from the ledger: to an address that is not confirmed, or of which the outbox does
    not know yet that it is, this does not go before it is.
    """
    connection.execute(sa.select(outbox.c.id).with_for_update())
    row = connection.execute(
        sa.select(streams.c.record, receivers.c.record.label("receiver"))
        .join(receivers, receivers.c.client_id == streams.c.client_id)
        .where(streams.c.stream_id == stream_id)
    ).first()
    if row is None:
        raise NoSuchStream("there is no such stream")
    stream, receiver = _streams.decode(row.record), _records.decode(row.receiver)
    fact = VerificationFact(stream_id, UnixTime(int(now)), state)
    jti, ways = sets.drawn_jti(secrets.token_bytes(32)), framework_ways(stream)
    draft = Draft(receiver.client_id, receiver.role, framework_lane(fact), 0, 0, jti, jti, stream_id, now, fact, *ways)
    insert_drafts(connection, [draft], take_numbers(connection, 1), now)


def _refuse_too_many(given: Sequence[Any]) -> None:
    if len(given) > MAX_TOLD:
        raise TooMuchAtOnce(f"at most {MAX_TOLD} at once")


class PusherDoor:
    """The outbox as one pusher calls it (`engine.pusher.service.PushService`), in the same process."""

    def __init__(self, pusher_id: ClientId, outbox: Outbox, keys: EventKeys) -> None:
        self._pusher_id = pusher_id
        self._keys = keys
        self.lease = outbox.lease
        self.release = outbox.release
        self.roster = outbox.roster
        self.fresh = outbox.fresh
        self.backlog = outbox.backlog
        self.keep = outbox.keep
        self.unsigned = outbox.unsigned
        self.tell = outbox.tell
        self.unpark = outbox.unpark

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        """See PushService."""
        registered = await self._keys.register(self._pusher_id, statement)
        return registered.kid, registered.published_until
