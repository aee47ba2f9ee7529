"""The moment as of which old deliveries are let go: it follows the clock of whoever prunes, and never leaps with it.

A clock that runs ahead would else take from poll, erase and delete in a minute what was to be kept for days and months.
So the moment stands in the database, and each pass brings it nearer to the clock by a bounded step: a service that
stood still for a day is even after twenty-four passes, and a clock that is a year ahead lets go of an hour's worth each
minute, which is time to set it right. A clock that is behind it takes it back at once: where one of several machines is
wrong, the others hold it. Where it was never noted, what the ledger itself recorded last says where it begins.
"""

from typing import Final

import sqlalchemy as sa

from admin.ledger.schema import deliveries, outbox
from engine.clock import Seconds

LEAP: Final = Seconds(3_600.0)  # a pass; they come each minute


def follow(connection: sa.Connection, now: float, leap: Seconds = LEAP) -> float:
    """Bring the moment nearer to `now`, and return it. Both: seconds since 1970. Without an outbox it is now."""
    row = connection.execute(sa.select(outbox.c.pruned_as_of).with_for_update()).first()
    if row is None:
        return now
    before = row.pruned_as_of if row.pruned_as_of is not None else _newest(connection)
    as_of = now if before is None else min(now, before + leap)
    connection.execute(sa.update(outbox).values(pruned_as_of=as_of))
    return as_of


def _newest(connection: sa.Connection) -> float | None:
    """When the newest delivery was committed."""
    query = sa.select(deliveries.c.committed_at).where(deliveries.c.number > 0).order_by(deliveries.c.number.desc())
    return connection.execute(query.limit(1)).scalar()
