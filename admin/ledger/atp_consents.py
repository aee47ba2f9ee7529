"""Which consents an ATP has that are still active: from the feed records, in the order of their keys, a stretch a call.

There is no index by ATP, and none is worth its writes: this is asked when all consents of an ATP end, and then most
records are looked at anyway. The database itself leaves out those whose bytes do not hold the ATP's name.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa

from admin.ledger.database import Database
from admin.ledger.listings import end_of_stretch, holding
from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentKey, ConsentRecord
from engine.consent.states import State

STRETCH: Final = 20_000  # consents looked through in one call: some tens of milliseconds
_consents: Final = msgspec.msgpack.Decoder(ConsentRecord)


class ActiveConsents(msgspec.Struct, frozen=True):
    """next_key: behind which the next stretch begins; None = this was the last."""

    keys: tuple[ConsentKey, ...]
    next_key: bytes | None


class AtpConsents:
    """Finds them in a database. now: whole seconds."""

    def __init__(self, database: Database, now: Callable[[], UnixTime]) -> None:
        self._database = database
        self._now = now

    async def active(self, atp: ClientId, after: bytes, limit: int) -> ActiveConsents:
        """See `read_active_of`. Raises the ledger's faults."""
        now = self._now()
        return await self._database.read(lambda connection: read_active_of(connection, atp, after, limit, now))


def read_active_of(
    connection: sa.Connection, atp: ClientId, after: bytes, limit: int, now: UnixTime, stretch: int = STRETCH
) -> ActiveConsents:
    """The ATP's active consents with a key above `after`: at most `limit`, maybe none. One whose time is over is none.

    One that is written behind `after` meanwhile is not found: look again from the beginning.
    """
    end = end_of_stretch(connection, after, stretch)
    found: list[ConsentKey] = []
    for row in connection.execute(holding(connection, atp, after, end, stretch)):
        consent = _consents.decode(row.record)
        if consent.atp != atp or consent.state is not State.ACTIVE or consent.expires_at <= now:
            continue
        found.append(ConsentKey(row.key))
        if len(found) == limit:
            return ActiveConsents(tuple(found), row.key)
    return ActiveConsents(tuple(found), end)
