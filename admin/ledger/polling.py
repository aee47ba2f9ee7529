"""Poll delivery (RFC 8936) from the rows of the outbox: what a receiver's poll stream holds, what it acknowledges."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.deliveries import BY_RECEIVER, of_receiver
from admin.ledger.outbox import Poll
from admin.ledger.schema import deliveries
from engine.consent.records import ClientId

OPEN: Final = sa.text("poll = 0")
MAX_EVENTS: Final = 1_000  # sets in one answer, about a megabyte
ERROR_LENGTH: Final = 64  # characters of an error's code that are kept; its description is not


# By dialect: those of `:clients`, a JSON array, that `read_open` would give something; one probe of the index each.
WITH_OPEN: Final = {
    "sqlite": sa.text(
        "SELECT asked.value FROM json_each(:clients) AS asked WHERE EXISTS (SELECT 1 FROM deliveries"
        " INDEXED BY ix_deliveries_open WHERE poll = 0 AND client_id = asked.value AND compact IS NOT NULL)"
    ),
    "postgresql": sa.text(
        "SELECT asked.client_id FROM json_array_elements_text(CAST(:clients AS json)) AS asked(client_id)"
        " CROSS JOIN LATERAL (SELECT 1 FROM deliveries WHERE poll = 0 AND compact IS NOT NULL"
        " AND client_id BETWEEN asked.client_id AND asked.client_id ORDER BY client_id, number LIMIT 1) AS oldest"
    ),
}

# By dialect: what is there for `:client_id` about its stream `:stream_id` itself, through the index of nothing else.
ABOUT_STREAM: Final = {
    "sqlite": sa.text(
        "SELECT jti, compact FROM deliveries INDEXED BY ix_deliveries_framework_open WHERE poll = 0 AND seq = 0"
        " AND client_id = :client_id AND subject = :stream_id AND compact IS NOT NULL ORDER BY number LIMIT :limit"
    ),
    "postgresql": sa.text(
        "SELECT jti, compact FROM deliveries WHERE poll = 0 AND seq = 0 AND client_id BETWEEN :client_id AND :client_id"
        " AND subject = :stream_id AND compact IS NOT NULL ORDER BY client_id, number LIMIT :limit"
    ),
}

# By dialect: numbers of what is open about `:client_id`'s stream `:stream_id` itself, signed or not; as above.
NUMBERS_ABOUT_STREAM: Final = {
    "sqlite": sa.text(
        "SELECT number FROM deliveries INDEXED BY ix_deliveries_framework_open WHERE poll = 0 AND seq = 0"
        " AND client_id = :client_id AND subject = :stream_id"
    ),
    "postgresql": sa.text(
        "SELECT number FROM deliveries WHERE poll = 0 AND seq = 0 AND client_id BETWEEN :client_id AND :client_id"
        " AND subject = :stream_id ORDER BY client_id, number"
    ),
}


class Polled(msgspec.Struct, frozen=True):
    """sets: jti to compact SET, the oldest first. more: there are others that were not acknowledged yet."""

    sets: dict[str, str]
    more: bool


def settle(
    connection: sa.Connection, client_id: ClientId, ack: Collection[str], errors: Mapping[str, str], now: float
) -> None:
    """Take what a receiver has kept, and what it refuses, by their ids. Ids that are not its own change nothing.

    errors: jti to code. Either ends the delivery by poll; acknowledged again, or refused after that, is no news.
    Rows are locked by number, as `deliveries.tell` does: two orders would end in a deadlock.
    """
    codes = {jti: error[:ERROR_LENGTH] for jti, error in errors.items()} | dict.fromkeys(ack)
    # Open ones are told apart here: asked for, SQLite would go through all that this receiver has open.
    own = sa.select(deliveries.c.number, deliveries.c.jti, deliveries.c.poll).where(
        deliveries.c.client_id == client_id, deliveries.c.jti.in_(codes)
    )
    rows = [
        {
            "at_number": row.number,
            "fate": int(Poll.ACKED if codes[row.jti] is None else Poll.REFUSED),
            "why": codes[row.jti] or "",
        }
        for row in connection.execute(own.order_by(deliveries.c.number))
        if row.poll == Poll.OPEN
    ]
    settled = (
        sa.update(deliveries)
        .where(OPEN, deliveries.c.number == sa.bindparam("at_number"))
        .values(poll=sa.bindparam("fate"), polled_at=now, poll_error=sa.bindparam("why"))
    )
    if rows:
        connection.execute(settled, rows)


def read_open(connection: sa.Connection, client_id: ClientId, limit: int) -> Polled:
    """The oldest signed sets that are not acknowledged yet, at most `limit` and MAX_EVENTS."""
    wanted = min(limit, MAX_EVENTS)
    query = (
        sa.select(deliveries.c.jti, deliveries.c.compact)
        .where(OPEN, of_receiver(client_id), deliveries.c.compact.is_not(None))
        .order_by(*BY_RECEIVER)
        .limit(wanted + 1)
    )
    return _polled(connection.execute(query).all(), wanted)


def read_about_stream(connection: sa.Connection, client_id: ClientId, stream_id: str, limit: int) -> Polled:
    """As `read_open`, of framework events about this stream alone: they come whatever its status is, as by push."""
    wanted = min(limit, MAX_EVENTS)
    asked = {"client_id": client_id, "stream_id": stream_id, "limit": wanted + 1}
    return _polled(connection.execute(ABOUT_STREAM[connection.dialect.name], asked).all(), wanted)


def numbers_about_stream(connection: sa.Connection, client_id: ClientId, stream_id: str) -> set[int]:
    """Of the deliveries about this stream that its receiver has neither acknowledged nor refused."""
    asked = {"client_id": client_id, "stream_id": stream_id}
    return set(connection.execute(NUMBERS_ABOUT_STREAM[connection.dialect.name], asked).scalars())


def _polled(rows: Sequence[Any], wanted: int) -> Polled:
    return Polled({row.jti: bytes(row.compact).decode() for row in rows[:wanted]}, len(rows) > wanted)


def read_with_open(connection: sa.Connection, client_ids: Collection[ClientId]) -> list[ClientId]:
    """Those of them that have a signed set which is not acknowledged yet."""
    asked = {"clients": msgspec.json.encode(sorted(client_ids)).decode()}
    return [ClientId(found) for found in connection.execute(WITH_OPEN[connection.dialect.name], asked).scalars()]
