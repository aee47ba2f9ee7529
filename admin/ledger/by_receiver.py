"""One question about many receivers at once: one statement, however many there are, and one probe of an index for each.

Which receivers is said by a JSON array, because no database takes a list of any length as parameters. Conditions and
orders are those of the partial indexes (`admin.ledger.schema`), written out: SQLite is told the index by name, and
PostgreSQL is kept from the primary key by an order that only the index has.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.deliveries import UNTOLD
from engine.pusher.service import Lane

_ASKED: Final = {
    "sqlite": "json_each(:clients) AS asked",
    "postgresql": "json_array_elements_text(CAST(:clients AS json)) AS asked(value)",
}
_OF_ASKED: Final = {
    "sqlite": "client_id = asked.value",
    "postgresql": "client_id BETWEEN asked.value AND asked.value",
}
_IN_LANE: Final = {
    "sqlite": "client_id = asked.value AND lane = :lane",
    "postgresql": "client_id = asked.value AND (lane, number) > (CAST(:lane AS bigint), 0)"
    " AND (lane, number) < (CAST(:lane AS bigint) + 1, 0)",
}
_COLUMNS: Final = "number, seq, committed_at, error, attempts, next_at"


class Left(msgspec.Struct, frozen=True):
    """What is left undone of one kind: an index that holds nothing else, its condition, and its order in a receiver."""

    index: str
    condition: str
    order: str = "number"


PENDING: Final = Left("pending", "push = 0", "lane, number")
PARKED: Final = Left("parked", "push = 2")
OPEN: Final = Left("open", "poll = 0")
UNTOLD_AT_ALL: Final = Left("untold", UNTOLD.text)
UNTOLD_BY_POLL: Final = Left("untold", f"{UNTOLD.text} AND poll = 0")  # of those who have no push stream


class Some(msgspec.Struct, frozen=True):
    """Which of the first ones are wanted. each: of a receiver. limit: of all together; None: as many as there are.

    also: a further condition on those that were found, with its values.
    """

    each: int = 1
    limit: int | None = None
    also: str = "1 = 1"
    values: dict[str, Any] = {}


def first_ones(
    connection: sa.Connection,
    clients: Collection[str],
    left: Left,
    some: Some = Some(),  # noqa: B008 - frozen
) -> Sequence[sa.Row[Any]]:
    """The first of every receiver in the index's order: rows of client_id, number, seq, committed_at, error."""
    return _first(connection, first_ones_query(connection.dialect.name, left, some.also), clients, some)


def first_in_lane(
    connection: sa.Connection,
    clients: Collection[str],
    lane: Lane,
    some: Some = Some(),  # noqa: B008 - frozen
) -> Sequence[sa.Row[Any]]:
    """The same of what is pending in one lane."""
    query = first_in_lane_query(connection.dialect.name, some.also)
    return _first(connection, query, clients, some, lane=int(lane))


def counts(connection: sa.Connection, clients: Collection[str], left: Left, most: int) -> dict[str, int]:
    """How many there are of every receiver, counted up to `most`; receivers without any are left out."""
    rows = execute(connection, counts_query(connection.dialect.name, left), clients, most=most)
    return {row.client_id: row.counted for row in rows if row.counted}


def first_ones_query(dialect: str, left: Left, also: str) -> sa.TextClause:
    """See `first_ones`."""
    return _first_query(dialect, left.index, f"{left.condition} AND {_OF_ASKED[dialect]}", left.order, also)


def first_in_lane_query(dialect: str, also: str) -> sa.TextClause:
    """See `first_in_lane`."""
    return _first_query(dialect, "pending", f"push = 0 AND {_IN_LANE[dialect]}", "lane, number", also)


def counts_query(dialect: str, left: Left) -> sa.TextClause:
    """See `counts`."""
    own = f"{left.condition} AND {_OF_ASKED[dialect]} ORDER BY {_order(dialect, left.order)} LIMIT :most"
    counted = f"(SELECT count(*) FROM (SELECT 1 FROM {_table(dialect, left.index)} WHERE {own}) AS own)"  # noqa: S608 - words of ours
    return sa.text(f"SELECT asked.value AS client_id, {counted} AS counted FROM {_ASKED[dialect]}")  # noqa: S608 - as above


def execute(
    connection: sa.Connection,
    query: sa.TextClause,
    clients: Collection[object],
    **values: Any,  # noqa: ANN401 - whatever the statement takes
) -> Sequence[sa.Row[Any]]:
    """A statement about `:clients`; nothing is asked about nobody."""
    if not clients:
        return []
    asked = msgspec.json.encode(list(clients)).decode()
    return connection.execute(query, {"clients": asked, **values}).all()


def _first(
    connection: sa.Connection, query: sa.TextClause, clients: Collection[str], some: Some, **values: int
) -> Sequence[sa.Row[Any]]:
    limit = some.each * len(clients) if some.limit is None else some.limit
    return execute(connection, query, clients, each=some.each, limit=limit, **some.values, **values)


def _first_query(dialect: str, index: str, condition: str, order: str, also: str) -> sa.TextClause:
    """SQLite has no LATERAL: it looks up by their numbers those that the index gives, and CROSS keeps that order."""
    own = f"FROM {_table(dialect, index)} WHERE {condition} ORDER BY {_order(dialect, order)} LIMIT :each"
    one = {
        "sqlite": f"deliveries AS one WHERE one.number IN (SELECT number {own}) AND {also}",
        "postgresql": f"LATERAL (SELECT {_COLUMNS} {own}) AS one WHERE {also}",
    }
    given = "asked.value AS client_id, one.number, one.seq, one.committed_at, one.error"
    return sa.text(f"SELECT {given} FROM {_ASKED[dialect]} CROSS JOIN {one[dialect]} LIMIT :limit")  # noqa: S608 - as above


def _table(dialect: str, index: str) -> str:
    return f"deliveries INDEXED BY ix_deliveries_{index}" if dialect == "sqlite" else "deliveries"


def _order(dialect: str, order: str) -> str:
    return order if dialect == "sqlite" else f"client_id, {order}"
