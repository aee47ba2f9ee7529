"""One-off consents are claimed once: (consent, EDP) -> the share that holds it, for ever.

The claim is a unique row, taken in one transaction with the look at the consent; of many that come at once exactly
one share finds its own name in it. A repeat under the same name is fine, so an EDP may ask again after a lost answer.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Meta
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.database import Database
from admin.ledger.schema import claims, feed_records
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentRecord, consent_key
from engine.consent.states import State
from engine.feed.entries import EntryKind

_UUID: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_records: Final = msgspec.msgpack.Decoder(ConsentRecord)


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an EDP wants to share once. share_id: its own idempotency key, else the token's `jti`."""

    consent_id: Annotated[ConsentId, Meta(pattern=_UUID)]
    edp: Annotated[ClientId, Meta(pattern="^[a-z0-9-]{1,40}$")]
    share_id: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class Held(msgspec.Struct, frozen=True):
    """Which share holds a consent. claimed_at: seconds since 1970."""

    edp: ClientId
    share_id: str
    claimed_at: float


class Claims:
    """wall: seconds since 1970."""

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self._database = database
        self._wall = wall

    async def take(self, claim: Claim) -> bool:
        """True = this share holds the consent, now or from before. Raises LedgerUnavailable.

        False also where there is nothing to claim: no such consent, ended, enduring, or not this EDP's.
        """
        now = self._wall()
        return await self._database.run(lambda connection: _take(connection, claim, now))

    async def first_of(self, consent_id: ConsentId) -> Held | None:
        """The first share that claimed a consent, at whichever EDP; None = nobody has. Raises LedgerUnavailable."""
        query = (
            sa.select(claims.c.edp, claims.c.share_id, claims.c.claimed_at)
            .where(claims.c.consent_id == consent_id)
            .order_by(claims.c.claimed_at, claims.c.edp)
            .limit(1)
        )
        row = await self._database.read(lambda connection: connection.execute(query).first())
        return None if row is None else Held(*row)

    async def count(self, edp: ClientId, since: float, until: float) -> int:
        """How many an EDP took in a time: a node answered it each time. Raises LedgerUnavailable."""
        query = sa.select(sa.func.count()).where(claims.c.edp == edp, claims.c.claimed_at.between(since, until))
        return await self._database.read(lambda connection: int(connection.execute(query).scalar_one()))


def _take(connection: sa.Connection, claim: Claim, now: float) -> bool:
    if not _is_claimable(_consent(connection, claim.consent_id), claim.edp, now):
        return False
    row = {"consent_id": claim.consent_id, "edp": claim.edp, "share_id": claim.share_id, "claimed_at": now}
    connection.execute(_insert(connection).values(**row).on_conflict_do_nothing())
    holder = sa.select(claims.c.share_id).where(claims.c.consent_id == claim.consent_id, claims.c.edp == claim.edp)
    return bool(connection.execute(holder).scalar_one() == claim.share_id)


def _consent(connection: sa.Connection, consent_id: ConsentId) -> ConsentRecord | None:
    found = connection.execute(
        sa.select(feed_records.c.record).where(
            feed_records.c.kind == int(EntryKind.CONSENT), feed_records.c.key == consent_key(consent_id)
        )
    ).scalar()
    return None if found is None else _records.decode(found)


def _is_claimable(consent: ConsentRecord | None, edp: ClientId, now: float) -> bool:
    return (
        consent is not None
        and consent.state is State.ACTIVE
        and consent.access_mode is AccessMode.ONE_OFF
        and edp in consent.edps
        and now < consent.expires_at
    )


def _insert(connection: sa.Connection) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(claims)
