"""The public keys of the nodes' answers: registered by each node for itself, published by the issuer for a time.

Rows are never deleted: an answer may have to be verified long after its key has left the key set. What bounds them
is how many a node may register in a day, and may have published at once.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.database import Database
from admin.ledger.nodes import KnownNodes
from admin.ledger.schema import answer_keys, event_keys
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.errors import Fault, Kind
from engine.telemetry.logs import logger
from engine.tokens.answer_key_statements import Statement, read_statement
from engine.tokens.keys import Jwk

KEYS_PER_NODE: Final = 8  # published at once, or registered within a day: rotations are a few a year
DAY: Final = 86_400

_jwk: Final = msgspec.json.Decoder(Jwk)
_log = logger("feed")


class AnotherNodesKey(Fault):
    """The key is registered for another node: two nodes must not share one."""

    kind = Kind.CONFLICT


class TooManyAnswerKeys(Fault):
    """The node has registered as many as it may for now."""

    kind = Kind.TOO_MANY


class Registered(msgspec.Struct, frozen=True):
    """The acknowledgement. published_until: seconds since 1970."""

    kid: str
    published_until: int


class AnswerKeys:
    """issuer: which issuer publishes them. forbidden: kids of token keys. wall: seconds since 1970."""

    def __init__(
        self,
        database: Database,
        nodes: KnownNodes,
        issuer: str,
        forbidden: frozenset[str],
        wall: Callable[[], float],
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._issuer = issuer
        self._forbidden = forbidden
        self._wall = wall

    async def register(self, node_id: ClientId, raw: bytes) -> Registered:
        """Take a node's statement about its key; the same one may come again.

        Raises BadStatement, AnotherNodesKey, TooManyAnswerKeys, LedgerUnavailable.
        """
        now = self._wall()
        statement = read_statement(raw, node_id=node_id, issuer=self._issuer, now=UnixTime(int(now)))
        if statement.key.kid in self._forbidden:
            raise AnotherNodesKey("this key signs tokens")
        until = await self._database.run(lambda connection: _register(connection, statement, now))
        _log.info("answer_key_registered", node_id=node_id, kid=statement.key.kid, published_until=int(until))
        return Registered(statement.key.kid, int(until))

    async def published(self) -> tuple[Jwk, ...]:
        """Of nodes that are not suspended, as long as each was stated. Raises the ledger's faults."""
        nodes, now = await self._nodes.ids(), self._wall()
        query = (
            sa.select(answer_keys.c.node_id, answer_keys.c.jwk)
            .where(answer_keys.c.published_until > now)
            .order_by(answer_keys.c.registered_at.desc(), answer_keys.c.kid)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(_jwk.decode(row.jwk) for row in rows if row.node_id in nodes)


def _register(connection: sa.Connection, statement: Statement, now: float) -> float:
    kid, node_id, until = statement.key.kid, statement.iss, float(statement.exp)
    known = connection.execute(sa.select(answer_keys).where(answer_keys.c.kid == kid)).first()
    if known is None:
        if connection.execute(sa.select(event_keys.c.kid).where(event_keys.c.kid == kid)).first() is not None:
            raise AnotherNodesKey("this key signs events")
        _refuse_too_many(connection, node_id, now)
        row = {"kid": kid, "node_id": node_id, "jwk": msgspec.json.encode(statement.key)}
        stored = _insert(connection).values(**row, registered_at=now, published_until=until)
        connection.execute(stored.on_conflict_do_nothing())
        known = connection.execute(sa.select(answer_keys).where(answer_keys.c.kid == kid)).one()
    if known.node_id != node_id:
        raise AnotherNodesKey("this key is registered for another node")
    if known.published_until >= until:  # an older statement comes late
        return float(known.published_until)
    connection.execute(sa.update(answer_keys).where(answer_keys.c.kid == kid).values(published_until=until))
    return until


def _refuse_too_many(connection: sa.Connection, node_id: str, now: float) -> None:
    counted = sa.or_(answer_keys.c.published_until > now, answer_keys.c.registered_at > now - DAY)
    query = sa.select(sa.func.count()).where(answer_keys.c.node_id == node_id, counted)
    if connection.execute(query).scalar_one() >= KEYS_PER_NODE:
        raise TooManyAnswerKeys(f"a node has at most {KEYS_PER_NODE} answer keys at once, or new ones in a day")


def _insert(connection: sa.Connection) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(answer_keys)
