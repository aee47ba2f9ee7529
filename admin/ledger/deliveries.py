"""The deliveries of the outbox as the pusher reads them, and what it tells of them. Statements of one transaction each.

Reading goes by receiver: what one receiver has left undone is never looked through for another. Conditions of partial
indexes are written out, because a database cannot match a parameter to them.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.outbox import Push
from admin.ledger.schema import deliveries, outbox, receivers, streams
from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.events.facts import Fact, VerificationFact
from engine.pusher.service import Delivery, Fate, Lane, Outcome, Signed
from engine.pusher.streams import StreamRecord

PENDING: Final = sa.text("push = 0")
PARKED: Final = sa.text("push = 2")
OWED: Final = sa.text("push IN (0, 2)")
UNSIGNED: Final = sa.text("signed_at IS NULL")
UNTOLD: Final = sa.text("seq > 0 AND ((push IN (0, 2) AND poll NOT IN (1, 2)) OR (push = 3 AND poll = 0))")
FRAMEWORK: Final = sa.text("push = 0 AND seq = 0")
FEW: Final = 1_000  # deliveries looked through by number: a millisecond, where two thousand receivers take some

_PUSH_OF: Final = {
    Fate.DONE: Push.DONE, Fate.AGAIN: Push.PENDING, Fate.PARKED: Push.PARKED, Fate.EXPIRED: Push.NONE
}  # fmt: skip
_facts: Final[msgspec.msgpack.Decoder[Fact]] = msgspec.msgpack.Decoder(Fact)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)


def read_fresh(connection: sa.Connection, lane: Lane, after: int, limit: int) -> list[Delivery]:
    """Deliveries of one lane that may be pushed now, with number > after, in order: of each receiver its first ones.

    Framework events of a push stream go out whatever its status is; the pusher looks at the stream. Who has seen all
    but the last few is given those among them: a look at each receiver would cost more.
    """
    last = newest(connection)
    if last <= after:
        return []
    wanted = {"lane": int(lane), "after": after, "limit": limit}
    if last - after <= FEW:
        numbers = {*connection.execute(PENDING_AMONG_LAST[connection.dialect.name], {**wanted, "last": last}).scalars()}
    else:
        numbers = {*connection.execute(PENDING_OF_ALL[connection.dialect.name], wanted).scalars()}
    numbers |= {*connection.execute(FRAMEWORK_EVENTS, wanted).scalars()}
    return _by_number(connection, sorted(numbers)[:limit])


def read_backlog(connection: sa.Connection, client_id: ClientId, lane: Lane, after: int, limit: int) -> list[Delivery]:
    """The same of one receiver, whatever its stream's status is."""
    wanted = {"client_id": client_id, "lane": int(lane), "after": after, "limit": limit}
    return _by_number(connection, connection.execute(PENDING_OF_ONE[connection.dialect.name], wanted).scalars().all())


def read_unsigned(connection: sa.Connection, after: int, limit: int, *, bulk: bool = False) -> list[Delivery]:
    """Deliveries without signed bytes, with number > after, in order: of the bulk lane, or of all others."""
    query = UNSIGNED_NUMBERS[connection.dialect.name]
    numbers: list[int] = []
    for lane in Lane:
        if (lane is Lane.BULK) == bulk:
            numbers += connection.execute(query, {"lane": int(lane), "after": after, "limit": limit}).scalars()
    return _by_number(connection, sorted(numbers)[:limit])


def newest(connection: sa.Connection) -> int:
    """The highest number that was given out."""
    return int(connection.execute(sa.select(outbox.c.numbered)).scalar() or 0)


def keep(connection: sa.Connection, signed: Sequence[Signed], now: float) -> list[Signed]:
    """Keep signed bytes where there are none yet; returns what stands for each number that is still there."""
    rows = [{"at_number": one.number, "bytes": one.compact} for one in sorted(signed, key=lambda one: one.number)]
    kept = (
        sa.update(deliveries)
        .where(deliveries.c.number == sa.bindparam("at_number"), UNSIGNED)
        .values(compact=sa.bindparam("bytes"), signed_at=now)
    )
    if rows:
        connection.execute(kept, rows)
    numbers = [one.number for one in signed]
    query = sa.select(deliveries.c.number, deliveries.c.compact).where(
        deliveries.c.number.in_(numbers), deliveries.c.compact.is_not(None)
    )
    return [Signed(row.number, row.compact) for row in connection.execute(query.order_by(deliveries.c.number))]


def tell(connection: sa.Connection, outcomes: Sequence[Outcome]) -> None:
    """Keep what came of attempts. What is done stays done, and what is not for push any more stays so."""
    rows = [
        {
            "at_number": one.number,
            "fate": int(_PUSH_OF[one.fate]),
            "tries": one.attempts,
            "at": one.at,
            "again": one.next_at,
            "why": one.error,
        }
        for one in sorted(outcomes, key=lambda one: one.number)
    ]
    told = (
        sa.update(deliveries)
        .where(
            deliveries.c.number == sa.bindparam("at_number"),
            OWED,
        )
        .values(
            push=sa.bindparam("fate"),
            attempts=sa.bindparam("tries"),
            tried_at=sa.bindparam("at"),
            next_at=sa.bindparam("again"),
            error=sa.bindparam("why"),
        )
    )
    if rows:
        connection.execute(told, rows)


def unpark(connection: sa.Connection, client_id: ClientId, at: UnixTime, limit: int) -> int:
    """Make parked deliveries of a receiver pending again, the oldest first; returns how many were parked until now."""
    numbers = list(connection.execute(parked_query(client_id, limit).with_for_update()).scalars())
    if numbers:
        for_nobody(connection, of_no_use(connection, deliveries.c.number.in_(numbers)))
        again = sa.update(deliveries).where(deliveries.c.number.in_(numbers), PARKED)
        connection.execute(again.values(push=int(Push.PENDING), next_at=float(at), attempts=0))
    return len(numbers)


def of_no_use(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[int]:
    """Of these deliveries the events about streams that go to no address any more: the stream's challenge is another
    by now, or it is confirmed, or there is no such stream.
    """
    query = (
        sa.select(deliveries.c.number, deliveries.c.fact, streams.c.record)
        .select_from(deliveries.outerjoin(streams, streams.c.stream_id == deliveries.c.subject))
        .where(which, deliveries.c.seq == 0, deliveries.c.fact.is_not(None))
    )
    return [row.number for row in connection.execute(query) if _is_of_no_use(_facts.decode(row.fact), row.record)]


def _is_of_no_use(fact: Fact, record: bytes | None) -> bool:
    if record is None:
        return True
    challenge = fact.challenge if isinstance(fact, VerificationFact) else None
    return challenge is not None and challenge != _streams.decode(record).challenge


def for_nobody(connection: sa.Connection, numbers: Collection[int]) -> None:
    """Nobody pushes these any more. Rows that this transaction holds."""
    if numbers:
        connection.execute(sa.update(deliveries).where(deliveries.c.number.in_(numbers)).values(push=int(Push.NONE)))


def parked_query(client_id: ClientId, limit: int) -> sa.Select[tuple[int]]:
    """Numbers of a receiver's parked deliveries, the oldest first."""
    return sa.select(deliveries.c.number).where(PARKED, of_receiver(client_id)).order_by(*BY_RECEIVER).limit(limit)


def held(
    connection: sa.Connection, numbers: Collection[int], still: sa.ColumnElement[bool] | sa.TextClause, *, skip: bool
) -> list[int]:
    """Those of these deliveries of which something is still so, locked until the transaction is over.

    Whoever changes several deliveries at once locks them by number first: with two orders, two of them would wait for
    each other. What another transaction has changed meanwhile is looked at as it is now, so that nothing that it wrote
    is written over. skip: leave out what another one holds; else wait for it. SQLite has one writer, and no such locks.
    """
    query = sa.select(deliveries.c.number).where(deliveries.c.number.in_(numbers), still)
    locked = query.order_by(deliveries.c.number).with_for_update(skip_locked=skip)
    return list(connection.execute(locked).scalars()) if numbers else []


def delivery_of(row: sa.Row[Any]) -> Delivery:
    """A row of `deliveries` whose payload is there."""
    return Delivery(
        number=row.number,
        client_id=row.client_id,
        role=Role(row.role),
        lane=Lane(row.lane),
        seq=row.seq,
        prev=row.prev,
        jti=row.jti,
        txn=row.txn,
        fact=_facts.decode(row.fact),
        committed_at=row.committed_at,
        signed=row.compact,
        attempts=row.attempts,
        next_at=row.next_at,
    )


def of_receiver(client_id: sa.ColumnElement[str] | str) -> sa.ColumnElement[bool]:
    """Of this receiver. A range of one, and to be ordered by BY_RECEIVER.

    PostgreSQL would otherwise read by the primary key, in the order that is wanted, and leave out all the others.
    """
    return deliveries.c.client_id.between(client_id, client_id)


BY_RECEIVER: Final = (deliveries.c.client_id, deliveries.c.number)

_LIMIT: Final = sa.bindparam("limit", type_=sa.Integer())
_LANE: Final = sa.bindparam("lane", type_=sa.BigInteger())
_AFTER: Final = sa.bindparam("after", type_=sa.BigInteger())
_lane_and_number: Final = sa.tuple_(deliveries.c.lane, deliveries.c.number)

# Both say: of one lane, above a number, in order. SQLite takes the index by the columns that are equal; PostgreSQL
# must be kept from the primary key, by an order that only the index has.
_pending_sqlite: Final = (
    sa.select(deliveries.c.number)
    .where(PENDING, deliveries.c.lane == _LANE, deliveries.c.number > _AFTER)
    .order_by(deliveries.c.number)
    .limit(_LIMIT)
)
_pending_postgres: Final = (
    sa.select(deliveries.c.number)
    .where(PENDING, _lane_and_number > sa.tuple_(_LANE, _AFTER), _lane_and_number < sa.tuple_(_LANE + 1, sa.literal(0)))
    .order_by(deliveries.c.lane, deliveries.c.number)
    .limit(_LIMIT)
)
_found: Final = deliveries.alias("found")
_each_sqlite: Final = _pending_sqlite.where(deliveries.c.client_id == receivers.c.client_id).correlate(receivers)
_each_postgres: Final = (
    _pending_postgres.where(deliveries.c.client_id == receivers.c.client_id).correlate(receivers).lateral("first")
)
# By dialect: the first ones of all receivers that may be pushed to, and of one; one probe of the index each. Ordered by
# a sum, which no index has, so that SQLite does not read all deliveries in order instead.
PENDING_OF_ALL: Final = {
    "sqlite": sa.select(_found.c.number)
    .select_from(receivers.join(_found, _found.c.number.in_(_each_sqlite)))
    .where(receivers.c.pushable == 1)
    .order_by(_found.c.number + sa.literal_column("0"))
    .limit(_LIMIT),
    "postgresql": sa.select(_each_postgres.c.number)
    .select_from(receivers.join(_each_postgres, sa.true()))
    .where(receivers.c.pushable == 1)
    .order_by(_each_postgres.c.number)
    .limit(_LIMIT),
}
# The same among the deliveries from `:after` to `:last`, whoever they are for. CROSS keeps SQLite's order, and NOT
# INDEXED leaves it the primary key.
_AMONG_LAST: Final = (
    "SELECT one.number FROM {one} receivers ON receivers.client_id = one.client_id WHERE one.number > :after"
    " AND one.number <= :last AND one.push = 0 AND one.lane = :lane AND receivers.pushable = 1"
    " ORDER BY one.number LIMIT :limit"
)
PENDING_AMONG_LAST: Final = {
    "sqlite": sa.text(_AMONG_LAST.format(one="deliveries AS one NOT INDEXED CROSS JOIN")),
    "postgresql": sa.text(_AMONG_LAST.format(one="deliveries AS one JOIN")),
}
PENDING_OF_ONE: Final = {
    "sqlite": _pending_sqlite.where(deliveries.c.client_id == sa.bindparam("client_id")),
    "postgresql": _pending_postgres.where(deliveries.c.client_id == sa.bindparam("client_id")),
}
# SQLite would read by the primary key whatever is signed already, and cannot be told otherwise but by name.
UNSIGNED_NUMBERS: Final[dict[str, sa.Executable]] = {
    "sqlite": sa.text(
        "SELECT number FROM deliveries INDEXED BY ix_deliveries_unsigned"
        " WHERE signed_at IS NULL AND lane = :lane AND number > :after ORDER BY number LIMIT :limit"
    ),
    "postgresql": sa.select(deliveries.c.number)
    .where(
        UNSIGNED, _lane_and_number > sa.tuple_(_LANE, _AFTER), _lane_and_number < sa.tuple_(_LANE + 1, sa.literal(0))
    )
    .order_by(deliveries.c.lane, deliveries.c.number)
    .limit(_LIMIT),
}
FRAMEWORK_EVENTS: Final = (
    sa.select(deliveries.c.number)
    .where(FRAMEWORK, deliveries.c.lane == _LANE, deliveries.c.number > _AFTER)
    .order_by(deliveries.c.lane, deliveries.c.number)
    .limit(_LIMIT)
)


def _by_number(connection: sa.Connection, numbers: Sequence[int]) -> list[Delivery]:
    query = sa.select(deliveries).where(deliveries.c.number.in_(numbers)).order_by(deliveries.c.number)
    return [delivery_of(row) for row in connection.execute(query)]
