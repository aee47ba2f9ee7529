"""How far behind each receiver is, for operators: what it is owed by push, what was parked, what poll still holds.

Everything is read through the partial indexes of what is left undone, receiver by receiver, and counted up to a bound:
a receiver that is owed a million events costs no more than one that is owed ten thousand.
"""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.deliveries import PARKED, PENDING
from admin.ledger.polling import OPEN
from admin.ledger.schema import deliveries, receivers, streams
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.pusher.service import Lane
from engine.pusher.streams import StreamRecord

COUNTED_TO: Final = 10_000  # whoever is owed so many or more is shown with this number

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


def read_standings(connection: sa.Connection) -> list[Standing]:
    """Every receiver that has a stream, by client_id."""
    by_client: dict[str, list[StreamRecord]] = {}
    for row in connection.execute(sa.select(streams).order_by(streams.c.stream_id)):
        by_client.setdefault(row.client_id, []).append(_streams.decode(row.record))
    rows = connection.execute(sa.select(receivers).order_by(receivers.c.client_id)).all()
    return [_standing(connection, row, tuple(by_client[row.client_id])) for row in rows if row.client_id in by_client]


def _standing(connection: sa.Connection, row: sa.Row[Any], own: tuple[StreamRecord, ...]) -> Standing:
    record, client_id = _records.decode(row.record), ClientId(row.client_id)
    unsent, parked = _oldest_unsent(connection, client_id), _oldest(connection, client_id, PARKED)
    failing = next((one for one in (unsent, parked) if one is not None and one.error), None)
    return Standing(
        client_id=client_id,
        role=record.role,
        suspended=record.suspended,
        last_seq=row.last_seq,
        streams=own,
        unsent=_count(connection, client_id, PENDING) if unsent is not None else 0,
        oldest_unsent=None if unsent is None else unsent.committed_at,
        parked=_count(connection, client_id, PARKED) if parked is not None else 0,
        unacknowledged=_count(connection, client_id, OPEN),
        error="" if failing is None else failing.error,
    )


def _oldest_unsent(connection: sa.Connection, client_id: ClientId) -> Any:  # noqa: ANN401 - a row, or None
    """Of all lanes: the index holds them lane by lane."""
    found = [_oldest(connection, client_id, PENDING, deliveries.c.lane == int(lane)) for lane in Lane]
    return min((row for row in found if row is not None), key=lambda row: row.number, default=None)


def _oldest(connection: sa.Connection, client_id: ClientId, *where: Any) -> Any:  # noqa: ANN401 - a row, or None
    query = (
        sa.select(deliveries.c.number, deliveries.c.committed_at, deliveries.c.error)
        .where(*where, deliveries.c.client_id == client_id)
        .order_by(deliveries.c.number)
        .limit(1)
    )
    return connection.execute(query).first()


def _count(connection: sa.Connection, client_id: ClientId, which: sa.TextClause) -> int:
    some = sa.select(deliveries.c.number).where(which, deliveries.c.client_id == client_id).limit(COUNTED_TO)
    return int(connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())
