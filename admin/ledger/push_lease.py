"""The right to push: one pusher at a time, fenced by an epoch, in one row of the ledger's database.

The lease runs by the database's own clock (with the embedded one, this machine's), so that instances of the admin
application need not agree on the time. Every write of the pusher holds the row while it is made: once somebody else has
the lease, nothing of the one before can come after it.
"""

from collections.abc import Callable
from time import time
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.schema import push_lease
from admin.ledger.sequencer import insert_into
from engine.clock import Seconds
from engine.pusher.service import Lease, LeaseHeld, LeaseLost

LEASE: Final = Seconds(3.0)  # a dead pusher's is free after it, which leaves two seconds of the five for taking over
NOBODY: Final = ""  # no pusher can call itself so
_MS: Final = 1_000  # epochs begin with the time, so that a restored ledger's are above those of the one that was lost

DatabaseClock = Callable[[sa.Connection], float]  # seconds since 1970


def database_time(connection: sa.Connection) -> float:
    """Now, by the database's process."""
    if connection.dialect.name == "sqlite":
        return time()
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one())


class Holding(msgspec.Struct, frozen=True):
    """Who has the lease. since: when it was taken; seconds since 1970, by the database's clock."""

    holder: str
    since: float


def holding(connection: sa.Connection) -> Holding | None:
    """As of now; None = nobody has it, or whoever had it has died and another may take it."""
    row, now = connection.execute(sa.select(push_lease)).first(), database_time(connection)
    if row is None or not _stands(row.until, now, LEASE):
        return None
    return Holding(row.holder, min(row.epoch / _MS, now))


def take(connection: sa.Connection, holder: str, now: float, seconds: Seconds = LEASE) -> Lease:
    """Take the lease, or find it again after a lost answer. Raises LeaseHeld."""
    row = _locked(connection)
    if _stands(row.until, now, seconds):
        if row.holder != holder:
            raise LeaseHeld("another pusher holds the lease", detail=f"until {row.until:.1f}")
        return _prolong(connection, row.epoch, now, seconds)
    epoch = max(row.epoch + 1, int(now * _MS))
    connection.execute(sa.update(push_lease).values(epoch=epoch, holder=holder, until=now + seconds, told=0))
    return Lease(epoch, seconds)


def renew(connection: sa.Connection, holder: str, epoch: int, now: float, seconds: Seconds = LEASE) -> Lease:
    """Prolong the lease; one that has run out too, as long as nobody else has taken it. Raises LeaseLost."""
    row = _locked(connection)
    if (row.epoch, row.holder) != (epoch, holder):
        raise LeaseLost("the lease has passed on")
    return _prolong(connection, epoch, now, seconds)


def release(connection: sa.Connection, epoch: int) -> None:
    """Give it up, for good: a renewal that was under way, and comes after it, finds another holder.

    One that has passed on is nobody's business any more.
    """
    connection.execute(sa.update(push_lease).where(push_lease.c.epoch == epoch).values(holder=NOBODY, until=0.0))


def require(connection: sa.Connection, epoch: int) -> None:
    """Hold the lease until this transaction is over. Raises LeaseLost."""
    if _locked(connection).epoch != epoch:
        raise LeaseLost("the lease has passed on")


def is_new(connection: sa.Connection, batch: int) -> bool:
    """Whether a batch of outcomes is above those told under the lease so far, and then it counts. After `require`.

    A call that was given up and made again may still be under way, and come after later ones.
    """
    above = sa.update(push_lease).where(push_lease.c.told < batch).values(told=batch)
    return connection.execute(above).rowcount == 1


def _stands(until: float, now: float, seconds: Seconds) -> bool:
    return now < until <= now + 2 * seconds  # further off than any lease lasts: the clock was set back since


def _prolong(connection: sa.Connection, epoch: int, now: float, seconds: Seconds) -> Lease:
    connection.execute(sa.update(push_lease).values(until=now + seconds))
    return Lease(epoch, seconds)


def _locked(connection: sa.Connection) -> sa.Row[Any]:
    query = sa.select(push_lease).with_for_update()  # SQLite has locked everything already
    row = connection.execute(query).first()
    if row is None:
        first = {"id": 1, "epoch": 0, "holder": NOBODY, "until": 0.0, "told": 0}
        connection.execute(insert_into(connection, push_lease).values(**first).on_conflict_do_nothing())
        row = connection.execute(query).one()
    return row
