"""What is left to be done in the outbox, for metrics and operators: counted over the partial indexes of it alone."""

import msgspec
import sqlalchemy as sa

from admin.ledger.outbox_pruning import DAY, PAYLOAD_DAYS
from admin.ledger.push_lease import Holding, holding
from admin.ledger.schema import deliveries, outbox
from engine.pusher.service import Lane


class OutboxFigures(msgspec.Struct, frozen=True):
    """pending, oldest: by lane; deliveries still to be pushed, and the age in seconds of the oldest of them.

    lease: who pushes; None = nobody. overdue: seconds by which the oldest payload is older than it may be; 0 = none is.
    """

    pending: dict[Lane, int]
    oldest: dict[Lane, float]
    parked: int
    unsigned: int
    unfetched: int
    lease: Holding | None
    overdue: float

    @property
    def leased(self) -> bool:
        """Whether there is a pusher at work."""
        return self.lease is not None


def read_figures(connection: sa.Connection, now: float) -> OutboxFigures:
    """As of now."""
    pending, oldest = dict.fromkeys(Lane, 0), dict.fromkeys(Lane, 0.0)
    by_lane = counting(connection, "pending", "push = 0", "lane, count(*), min(number)") + " GROUP BY lane"
    for lane, count, first in connection.exec_driver_sql(by_lane).all():
        pending[Lane(lane)] = count
        oldest[Lane(lane)] = max(0.0, now - _committed_at(connection, first))
    return OutboxFigures(
        pending,
        oldest,
        parked=connection.exec_driver_sql(counting(connection, "parked", "push = 2")).scalar_one(),
        unsigned=connection.exec_driver_sql(counting(connection, "unsigned", "signed_at IS NULL")).scalar_one(),
        unfetched=connection.exec_driver_sql(counting(connection, "open", "poll = 0")).scalar_one(),
        lease=holding(connection),
        overdue=_overdue(connection, now),
    )


def counting(connection: sa.Connection, index: str, condition: str, what: str = "count(*)") -> str:
    """SQL that counts over a partial index. SQLite would rather go through the whole table, unless it is told."""
    hint = f" INDEXED BY ix_deliveries_{index}" if connection.dialect.name == "sqlite" else ""
    return f"SELECT {what} FROM deliveries{hint} WHERE {condition}"  # noqa: S608 - words of ours


def _committed_at(connection: sa.Connection, number: int) -> float:
    query = sa.select(deliveries.c.committed_at).where(deliveries.c.number == number)
    return float(connection.execute(query).scalar_one())


def _overdue(connection: sa.Connection, now: float) -> float:
    pruned = sa.select(outbox.c.payloads_pruned).scalar_subquery()
    query = sa.select(deliveries.c.committed_at).where(deliveries.c.number > pruned).order_by(deliveries.c.number)
    first = connection.execute(query.limit(1)).scalar()
    return 0.0 if first is None else max(0.0, now - first - PAYLOAD_DAYS * DAY)
