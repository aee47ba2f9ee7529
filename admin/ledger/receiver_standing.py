"""How far behind each receiver is, for operators: what it is owed by push, what was parked, what poll still holds.

Everything is read through the partial indexes of what is left undone, receiver by receiver, and counted up to a bound:
a receiver that is owed a million events costs no more than one that is owed ten thousand.
"""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.deliveries import BY_RECEIVER, PARKED, PENDING_OF_ONE, UNTOLD, of_receiver
from admin.ledger.outbox import Poll, Push
from admin.ledger.polling import OPEN
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.sequencer import REACH
from engine.consent.records import ClientId, FallbackSuspension, ParticipantRecord, Role
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord

COUNTED_TO: Final = 10_000  # whoever is owed so many or more is shown with this number


class Untold(msgspec.Struct, frozen=True):
    """The oldest event that was neither pushed to a receiver nor acknowledged by poll. since: when it could be first.

    That is its commit or, where the outbox was made anew since, as after a restore, when that was.
    """

    seq: int
    since: float


_records: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)


class Standing(msgspec.Struct, frozen=True):
    """A receiver that has streams. Times: seconds since 1970, None = there is nothing of the kind.

    unsent: not pushed yet, from `oldest_unsent` on. parked: pushed no more, left to poll. unacknowledged: by poll.
    error: of the newest attempt at the oldest that is unsent or parked; a word, no text.
    """

    client_id: ClientId
    role: Role
    suspended: bool
    last_seq: int
    streams: tuple[StreamRecord, ...]
    unsent: int
    oldest_unsent: float | None
    parked: int
    unacknowledged: int
    error: str
    untold: Untold | None = None
    fallback_suspended: FallbackSuspension | None = None
    caught_up: bool = False  # it was told something since its right to fall back was suspended


def read_standings(connection: sa.Connection) -> list[Standing]:
    """Every receiver that has a stream, by client_id."""
    by_client: dict[str, list[StreamRecord]] = {}
    for row in connection.execute(sa.select(streams).order_by(streams.c.stream_id)):
        by_client.setdefault(row.client_id, []).append(_streams.decode(row.record))
    rows = connection.execute(sa.select(receivers).order_by(receivers.c.client_id)).all()
    return [_standing(connection, row, tuple(by_client[row.client_id])) for row in rows if row.client_id in by_client]


def _standing(connection: sa.Connection, row: sa.Row[Any], own: tuple[StreamRecord, ...]) -> Standing:
    record, client_id = _records.decode(row.record), ClientId(row.client_id)
    unsent, parked = _pending(connection, client_id), _left(connection, client_id, PARKED)
    oldest = [_row(connection, min(numbers)) for numbers in (unsent, parked) if numbers]
    return Standing(
        client_id=client_id,
        role=record.role,
        suspended=record.suspended,
        last_seq=row.last_seq,
        streams=own,
        unsent=min(len(unsent), COUNTED_TO),
        oldest_unsent=oldest[0].committed_at if unsent else None,
        parked=len(parked),
        unacknowledged=len(_left(connection, client_id, OPEN)),
        error=next((one.error for one in oldest if one.error), ""),
        untold=_untold(connection, client_id, own),
        fallback_suspended=record.fallback_suspended,
        caught_up=_was_told(connection, client_id, record.fallback_suspended),
    )


def untold_query(connection: sa.Connection, *, by_poll_alone: bool) -> sa.TextClause:
    """The oldest event of UNTOLD of `:client_id`. by_poll_alone: it has no push stream: only what poll offers counts.

    Said in words, so that each database takes the index that holds nothing else: see `deliveries`.
    """
    hint = " INDEXED BY ix_deliveries_untold" if connection.dialect.name == "sqlite" else ""
    condition = (
        f"{UNTOLD.text} AND client_id BETWEEN :client_id AND :client_id{' AND poll = 0' if by_poll_alone else ''}"
    )
    order = "ORDER BY client_id, number LIMIT 1"
    return sa.text(f"SELECT seq, committed_at FROM deliveries{hint} WHERE {condition} {order}")  # noqa: S608 - words of ours


def _untold(connection: sa.Connection, client_id: ClientId, own: tuple[StreamRecord, ...]) -> Untold | None:
    by_poll_alone = all(stream.delivery is not DeliveryMethod.PUSH for stream in own)
    query = untold_query(connection, by_poll_alone=by_poll_alone)
    row = connection.execute(query, {"client_id": client_id}).first()
    if row is None:
        return None
    made_at = connection.execute(sa.select(outbox.c.rows_from)).scalar_one() + REACH
    return Untold(row.seq, max(row.committed_at, float(made_at)))


def _was_told(connection: sa.Connection, client_id: ClientId, suspended: FallbackSuspension | None) -> bool:
    """Whether any event from the one that it was suspended for on was taken since: silence alone proves nothing.

    Sets go out of poll after seven days, and a restore makes the outbox anew; neither means that it has caught up.
    """
    if suspended is None:
        return False
    from_there = (
        sa.select(deliveries)
        .where(deliveries.c.seq > 0, deliveries.c.client_id == client_id, deliveries.c.seq >= suspended.oldest_seq)
        .order_by(deliveries.c.seq)
        .limit(COUNTED_TO)
        .subquery()
    )
    pushed = sa.and_(from_there.c.push == int(Push.DONE), from_there.c.tried_at >= suspended.at)
    polled = sa.and_(from_there.c.poll == int(Poll.ACKED), from_there.c.polled_at >= suspended.at)
    return connection.execute(sa.select(from_there.c.number).where(sa.or_(pushed, polled)).limit(1)).first() is not None


def _pending(connection: sa.Connection, client_id: ClientId) -> list[int]:
    """Numbers of what is to be pushed, lane by lane, as the index holds them."""
    query = PENDING_OF_ONE[connection.dialect.name]
    wanted = {"client_id": client_id, "after": 0, "limit": COUNTED_TO}
    return [
        number for lane in Lane for number in connection.execute(query, {**wanted, "lane": int(lane)}).scalars().all()
    ]


def left_query(client_id: str, which: sa.TextClause) -> sa.Select[Any]:
    """Numbers of a receiver's deliveries of which something is left undone."""
    query = sa.select(deliveries.c.number).where(which, of_receiver(client_id))
    return query.order_by(*BY_RECEIVER).limit(COUNTED_TO)


def _left(connection: sa.Connection, client_id: ClientId, which: sa.TextClause) -> list[int]:
    return list(connection.execute(left_query(client_id, which)).scalars())


def _row(connection: sa.Connection, number: int) -> Any:  # noqa: ANN401 - a row with two columns
    query = sa.select(deliveries.c.committed_at, deliveries.c.error).where(deliveries.c.number == number)
    return connection.execute(query).one()
