"""How far behind each receiver is, for operators: what it is owed by push, what was parked, what poll still holds.

Everything is read through the partial indexes of what is left undone, and counted up to a bound for each receiver: one
that is owed a million events costs no more than one that is owed ten thousand. A look is a fixed number of statements,
each about all receivers, so that two thousand of them keep the database's threads no longer busy with words than ten.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.by_receiver import (
    OPEN,
    PARKED,
    PENDING,
    UNTOLD_AT_ALL,
    UNTOLD_BY_POLL,
    counts,
    execute,
    first_in_lane,
    first_ones,
)
from admin.ledger.schema import outbox, receivers, streams
from admin.ledger.sequencer import REACH
from engine.consent.records import ClientId, FallbackSuspension, ParticipantRecord, Role
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

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

    unsent: not pushed yet, from `oldest_unsent` on; of a push stream that its receiver has disabled nothing is missing.
    parked: pushed no more, left to poll. unacknowledged: by poll.
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


class _Left(msgspec.Struct, frozen=True):
    """What is left undone of all receivers, by client_id. Oldest: rows of number, seq, committed_at and error."""

    unsent: Mapping[str, int]
    oldest_unsent: Mapping[str, sa.Row[Any]]
    parked: Mapping[str, int]
    oldest_parked: Mapping[str, sa.Row[Any]]
    unacknowledged: Mapping[str, int]
    untold: Mapping[str, Untold]
    told: frozenset[str]


def read_standings(connection: sa.Connection) -> list[Standing]:
    """Every receiver that has a stream, by client_id."""
    by_client: dict[str, list[StreamRecord]] = {}
    for row in connection.execute(sa.select(streams).order_by(streams.c.stream_id)):
        by_client.setdefault(row.client_id, []).append(_streams.decode(row.record))
    rows = connection.execute(sa.select(receivers).order_by(receivers.c.client_id)).all()
    found = [(row, _records.decode(row.record)) for row in rows if row.client_id in by_client]
    left = _left(connection, by_client, [record for _, record in found])
    return [_standing(row, record, tuple(by_client[row.client_id]), left) for row, record in found]


def _standing(row: sa.Row[Any], record: ParticipantRecord, own: tuple[StreamRecord, ...], left: _Left) -> Standing:
    client_id = ClientId(row.client_id)
    oldest = [of.get(client_id) for of in (left.oldest_unsent, left.oldest_parked)]
    return Standing(
        client_id=client_id,
        role=record.role,
        suspended=record.suspended,
        last_seq=row.last_seq,
        streams=own,
        unsent=left.unsent.get(client_id, 0),
        oldest_unsent=None if oldest[0] is None else oldest[0].committed_at,
        parked=left.parked.get(client_id, 0),
        unacknowledged=left.unacknowledged.get(client_id, 0),
        error=next((one.error for one in oldest if one is not None and one.error), ""),
        untold=left.untold.get(client_id),
        fallback_suspended=record.fallback_suspended,
        caught_up=client_id in left.told,
    )


def _left(
    connection: sa.Connection, by_client: Mapping[str, list[StreamRecord]], records: Collection[ParticipantRecord]
) -> _Left:
    clients = [record.client_id for record in records]
    pushed = [one for one in clients if not _has_push_disabled(by_client[one])]
    pending = _oldest(row for lane in Lane for row in first_in_lane(connection, pushed, lane))
    parked = _oldest(first_ones(connection, clients, PARKED))
    return _Left(
        unsent=counts(connection, pending, PENDING, COUNTED_TO),
        oldest_unsent=pending,
        parked=counts(connection, parked, PARKED, COUNTED_TO),
        oldest_parked=parked,
        unacknowledged=counts(connection, clients, OPEN, COUNTED_TO),
        untold=_untold(connection, {one: by_client[one] for one in clients}),
        told=_told(connection, records),
    )


def _has_push_disabled(own: Iterable[StreamRecord]) -> bool:
    """Whether a receiver wants no pushes for now: nobody but itself disables. What was pending waits for its word."""
    return any(one.delivery is DeliveryMethod.PUSH and one.status is StreamStatus.DISABLED for one in own)


def _oldest(rows: Iterable[sa.Row[Any]]) -> dict[str, sa.Row[Any]]:
    """Of each receiver the one with the lowest number."""
    falling = sorted(rows, key=lambda row: row.number, reverse=True)
    return {row.client_id: row for row in falling}


def _untold(connection: sa.Connection, by_client: Mapping[str, list[StreamRecord]]) -> dict[str, Untold]:
    """The oldest event of UNTOLD of each receiver; of one without a push stream only what poll offers counts."""
    pushed = [one for one, own in by_client.items() if any(way.delivery is DeliveryMethod.PUSH for way in own)]
    polled = [one for one in by_client if one not in set(pushed)]
    rows = [*first_ones(connection, pushed, UNTOLD_AT_ALL), *first_ones(connection, polled, UNTOLD_BY_POLL)]
    if not rows:
        return {}
    made_at = connection.execute(sa.select(outbox.c.rows_from)).scalar_one() + REACH
    return {row.client_id: Untold(row.seq, max(row.committed_at, float(made_at))) for row in rows}


# Of `:clients`, an array of [client_id, position, seconds since 1970]: those to whom any event from that position on
# came since then. Up to `:most` of their events are looked through.
TOLD_SINCE: Final = {
    "sqlite": sa.text(
        "SELECT json_extract(asked.value, '$[0]') AS client_id FROM json_each(:clients) AS asked"
        " WHERE EXISTS (SELECT 1 FROM (SELECT push, tried_at, poll, polled_at FROM deliveries"
        " INDEXED BY ix_deliveries_chain WHERE seq > 0 AND client_id = json_extract(asked.value, '$[0]')"
        " AND seq >= json_extract(asked.value, '$[1]') ORDER BY seq LIMIT :most) AS since"
        " WHERE (push = 1 AND tried_at >= json_extract(asked.value, '$[2]'))"
        " OR (poll = 1 AND polled_at >= json_extract(asked.value, '$[2]')))"
    ),
    "postgresql": sa.text(
        "SELECT asked.client_id FROM (SELECT one->>0 AS client_id, CAST(one->>1 AS bigint) AS seq,"
        " CAST(one->>2 AS double precision) AS at FROM json_array_elements(CAST(:clients AS json)) AS given(one))"
        " AS asked WHERE EXISTS (SELECT 1 FROM (SELECT push, tried_at, poll, polled_at FROM deliveries"
        " WHERE deliveries.seq > 0 AND deliveries.client_id = asked.client_id"
        " AND deliveries.seq >= asked.seq ORDER BY deliveries.client_id, deliveries.seq LIMIT :most)"
        " AS since WHERE (push = 1 AND tried_at >= asked.at) OR (poll = 1 AND polled_at >= asked.at))"
    ),
}


def _told(connection: sa.Connection, records: Collection[ParticipantRecord]) -> frozenset[str]:
    """Whose right rests, and took any event since, from the one on that it was suspended for: silence proves nothing.

    Sets go out of poll after seven days, and a restore makes the outbox anew; neither means that it has caught up.
    """
    resting = [(one.client_id, one.fallback_suspended) for one in records if one.fallback_suspended is not None]
    asked = [(client_id, suspended.oldest_seq, suspended.at) for client_id, suspended in resting]
    rows = execute(connection, TOLD_SINCE[connection.dialect.name], asked, most=COUNTED_TO)
    return frozenset(row.client_id for row in rows)
