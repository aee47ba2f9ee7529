"""What a receiver may list of its own consents: their changes after a position, and all of them by key.

Changes come from the outbox's rows, by an index: a page costs as much as it has lines. A snapshot walks the consents'
feed records in the order of their keys, a bounded stretch of them at a time; the database itself leaves out those
whose bytes do not hold the receiver's name, so that a stretch of 50,000 costs some tens of milliseconds wherever few of
them are the receiver's own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.events import event_of
from admin.ledger.facts import fact_of
from admin.ledger.reader import read_head, stored_event
from admin.ledger.schema import deliveries, events, feed_records, outbox, receivers
from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentRecord
from engine.errors import Fault, Kind
from engine.events.facts import ConsentFact, Fact, PartyFact
from engine.feed.entries import EntryKind

STRETCH: Final = 50_000  # consents looked through in one call
_TOLD: Final = sa.text("seq > 0")  # written out: a database matches no parameter to a partial index
_HOLDS: Final = {
    "sqlite": sa.text("instr(record, :name) > 0"),
    "postgresql": sa.text("position(:name in record) > 0"),
}

_facts: Final[msgspec.msgpack.Decoder[Fact]] = msgspec.msgpack.Decoder(Fact)
_consents: Final = msgspec.msgpack.Decoder(ConsentRecord)


class TooOld(Fault):
    """What follows this position is not there line by line any more, or never was: take the snapshot."""

    kind = Kind.GONE


class Told(msgspec.Struct, frozen=True):
    """One event of a receiver, with the position of its previous one."""

    seq: int
    prev: int
    fact: ConsentFact | PartyFact


class Changes(msgspec.Struct, frozen=True):
    """Events after a position, in order. as_of: up to which position everything is there, unless there is more."""

    as_of: int
    told: tuple[Told, ...]
    more: bool


class Listed(msgspec.Struct, frozen=True):
    """A consent as it stands, with its newest event."""

    seq: int
    consent: ConsentRecord
    fact: ConsentFact


class Stretch(msgspec.Struct, frozen=True):
    """Consents of a stretch of keys. next_key: behind which the next one begins; None = this was the last."""

    consents: tuple[Listed, ...]
    next_key: bytes | None


def read_changes(connection: sa.Connection, client_id: ClientId, after: int, limit: int) -> Changes:
    """A receiver's events after a position, at most `limit`. Raises TooOld where the chain does not hang together.

    That is so where the receiver had no stream for a while, where payloads were erased by age, and where the position
    is above all that the ledger has.
    """
    if after > read_head(connection).position.seq:
        raise TooOld("the ledger has no such position: take the snapshot")
    as_of = connection.execute(sa.select(outbox.c.seq)).scalar() or 0
    last = connection.execute(sa.select(receivers.c.last_seq).where(receivers.c.client_id == client_id)).scalar() or 0
    told = _chained(connection.execute(changes_query(client_id, after, as_of, limit)), after)
    reached = told[-1].seq if told else after
    if not told and last > after:
        raise TooOld("the listing does not go back so far: take the snapshot")
    return Changes(as_of, tuple(told), more=last > reached)


def changes_query(client_id: str, after: int, up_to: int, limit: int) -> sa.Select[Any]:
    """A receiver's deliveries behind a position, without those written ahead of the outbox's own (`up_to`).

    Ordered by the index's own order, so that it is taken; of one receiver and not of a range of one, so that it is
    entered at the position and not at the receiver's first.
    """
    own = deliveries.c.client_id == client_id
    return (
        sa.select(deliveries.c.seq, deliveries.c.prev, deliveries.c.fact)
        .where(_TOLD, own, deliveries.c.seq > after, deliveries.c.seq <= up_to)
        .order_by(deliveries.c.client_id, deliveries.c.seq)
        .limit(limit)
    )


def _chained(rows: Iterable[sa.Row[Any]], after: int) -> list[Told]:
    """As many as hang together, from the first one on."""
    told: list[Told] = []
    reached = after
    for row in rows:
        whole = row.prev <= after if not told else row.prev == reached
        if not whole or row.fact is None:
            break
        fact = _facts.decode(row.fact)
        assert isinstance(fact, ConsentFact | PartyFact)  # noqa: S101 - framework events have no position
        told.append(Told(row.seq, row.prev, fact))
        reached = row.seq
    return told


def read_stretch(
    connection: sa.Connection, client_id: ClientId, after: bytes, limit: int, stretch: int = STRETCH
) -> Stretch:
    """A receiver's consents with a key above `after`, in order of their keys: at most `limit`, maybe none."""
    end = end_of_stretch(connection, after, stretch)
    rows = connection.execute(holding(connection, client_id, after, end, limit + 1)).all()
    more = len(rows) > limit
    own = [(row, consent) for row in rows[:limit] if client_id in parties_of(consent := _consents.decode(row.record))]
    facts = _facts_of(connection, [row.seq for row, _ in own])
    listed = tuple(Listed(row.seq, consent, facts[row.seq]) for row, consent in own if row.seq in facts)
    return Stretch(listed, rows[limit - 1].key if more else end)


def parties_of(consent: ConsentRecord) -> tuple[ClientId, ...]:
    """Whoever takes part in a consent."""
    return (consent.atp, *consent.edps)


def end_of_stretch(connection: sa.Connection, after: bytes, stretch: int) -> bytes | None:
    """The last key of a stretch; None = it is the last stretch."""
    query = (
        sa.select(feed_records.c.key)
        .where(feed_records.c.kind == int(EntryKind.CONSENT), feed_records.c.key > after)
        .order_by(feed_records.c.key)
        .offset(stretch - 1)
        .limit(1)
    )
    found: bytes | None = connection.execute(query).scalar()
    return found


def holding(
    connection: sa.Connection, client_id: ClientId, after: bytes, end: bytes | None, limit: int
) -> sa.Select[tuple[int, bytes, bytes]]:
    """Those that hold the name as MessagePack has it; which of them are the receiver's own, decoding tells."""
    name = msgspec.msgpack.encode(client_id)
    found = (
        sa.select(feed_records.c.seq, feed_records.c.key, feed_records.c.record)
        .where(feed_records.c.kind == int(EntryKind.CONSENT), feed_records.c.key > after)
        .where(_HOLDS[connection.dialect.name].bindparams(sa.bindparam("name", name, sa.LargeBinary)))
        .order_by(feed_records.c.key)
        .limit(limit)
    )
    return found if end is None else found.where(feed_records.c.key <= end)


def _facts_of(connection: sa.Connection, seqs: Sequence[int]) -> dict[int, ConsentFact]:
    """What was told of each of these events."""
    found: dict[int, ConsentFact] = {}
    for row in connection.execute(sa.select(events).where(events.c.seq.in_(seqs))):
        stored = stored_event(row)
        fact = fact_of(event_of(stored), stored.position.seq, UnixTime(stored.recorded_at))
        if isinstance(fact, ConsentFact):
            found[stored.position.seq] = fact
    return found
