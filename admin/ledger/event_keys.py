"""The public keys of pushed events: stated by each pusher for itself, published under a set of their own for a time.

They stand apart from token and answer keys: whoever verifies events looks nowhere else, and a key that is registered
as one kind is refused as another. A key stays published for eight days after its newest statement, because a receiver
that was away may fetch by poll what was signed a week ago.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import sqlalchemy as sa

from admin.ledger.answer_keys import Registered
from admin.ledger.database import Database
from admin.ledger.schema import answer_keys, event_keys, feed_records
from admin.ledger.sequencer import insert_into
from engine.clock import UnixTime
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.errors import Fault, Kind
from engine.events.signing import read_event_key_statement
from engine.feed.entries import EntryKind
from engine.telemetry.logs import logger
from engine.tokens.answer_key_statements import Statement
from engine.tokens.keys import Jwk

KEPT_FOR: Final = 8 * 86_400  # seconds after the newest statement: a day more than poll holds a set
KEYS_PER_PUSHER: Final = 8  # published at once, or registered within a day
DAY: Final = 86_400

_jwk: Final = msgspec.json.Decoder(Jwk)
_participants: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_log = logger("feed")


class KeyOfAnotherKind(Fault):
    """A key signs one kind of thing, for one owner."""

    kind = Kind.CONFLICT


class TooManyEventKeys(Fault):
    """The pusher has registered as many as it may for now."""

    kind = Kind.TOO_MANY


class EventKeys:
    """issuer: which issuer publishes them. forbidden: kids of token keys. wall: seconds since 1970."""

    def __init__(self, database: Database, issuer: str, forbidden: frozenset[str], wall: Callable[[], float]) -> None:
        self._database = database
        self._issuer = issuer
        self._forbidden = forbidden
        self._wall = wall

    async def register(self, pusher_id: ClientId, raw: bytes) -> Registered:
        """Take a pusher's statement about its key; the same one may come again.

        Raises BadStatement, KeyOfAnotherKind, TooManyEventKeys, LedgerUnavailable.
        """
        now = self._wall()
        statement = read_event_key_statement(raw, pusher_id=pusher_id, issuer=self._issuer, now=UnixTime(int(now)))
        if statement.key.kid in self._forbidden:
            raise KeyOfAnotherKind("this key signs tokens")
        until = await self._database.run(lambda connection: _register(connection, statement, now))
        _log.info("event_key_registered", pusher_id=pusher_id, kid=statement.key.kid, published_until=int(until))
        return Registered(statement.key.kid, int(until))

    async def published(self) -> tuple[Jwk, ...]:
        """Newest first, each for as long as it was stated; none of a suspended pusher. Raises the ledger's faults."""
        now = self._wall()
        return await self._database.read(lambda connection: _published(connection, now))


def _published(connection: sa.Connection, now: float) -> tuple[Jwk, ...]:
    query = (
        sa.select(event_keys.c.pusher_id, event_keys.c.jwk)
        .where(event_keys.c.published_until > now)
        .order_by(event_keys.c.registered_at.desc(), event_keys.c.kid)
    )
    rows = connection.execute(query).all()
    working = {pusher for pusher in {row.pusher_id for row in rows} if _works(connection, pusher)}
    return tuple(_jwk.decode(row.jwk) for row in rows if row.pusher_id in working)


def _works(connection: sa.Connection, pusher_id: str) -> bool:
    place = feed_records.c.kind == int(EntryKind.PARTICIPANT), feed_records.c.key == pusher_id.encode()
    record = connection.execute(sa.select(feed_records.c.record).where(*place)).scalar()
    if record is None:
        return False
    participant = _participants.decode(record)
    return participant.role is Role.PUSHER and not participant.suspended


def _register(connection: sa.Connection, statement: Statement, now: float) -> float:
    kid, pusher_id = statement.key.kid, statement.iss
    until = float(min(statement.exp, statement.iat + KEPT_FOR))
    known = connection.execute(sa.select(event_keys).where(event_keys.c.kid == kid)).first()
    if known is None:
        _refuse_answer_key(connection, kid)
        _refuse_too_many(connection, pusher_id, now)
        row = {"kid": kid, "pusher_id": pusher_id, "jwk": msgspec.json.encode(statement.key)}
        stored = insert_into(connection, event_keys).values(**row, registered_at=now, published_until=until)
        connection.execute(stored.on_conflict_do_nothing())
        known = connection.execute(sa.select(event_keys).where(event_keys.c.kid == kid)).one()
    if known.pusher_id != pusher_id:
        raise KeyOfAnotherKind("this key is registered for another pusher")
    if known.published_until >= until:  # an older statement comes late
        return float(known.published_until)
    connection.execute(sa.update(event_keys).where(event_keys.c.kid == kid).values(published_until=until))
    return until


def _refuse_answer_key(connection: sa.Connection, kid: str) -> None:
    if connection.execute(sa.select(answer_keys.c.kid).where(answer_keys.c.kid == kid)).first() is not None:
        raise KeyOfAnotherKind("this key signs a node's answers")


def _refuse_too_many(connection: sa.Connection, pusher_id: str, now: float) -> None:
    counted = sa.or_(event_keys.c.published_until > now, event_keys.c.registered_at > now - DAY)
    query = sa.select(sa.func.count()).where(event_keys.c.pusher_id == pusher_id, counted)
    if connection.execute(query).scalar_one() >= KEYS_PER_PUSHER:
        raise TooManyEventKeys(f"a pusher has at most {KEYS_PER_PUSHER} event keys at once, or new ones in a day")
