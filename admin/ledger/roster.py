"""All receivers with their streams as the outbox knows them, for the pusher."""

import base64
from collections.abc import Iterable
from typing import Final

import msgspec
import sqlalchemy as sa

from admin.ledger.events import stream_subject
from admin.ledger.schema import checkpoints, ledger_meta, outbox, receivers, streams, subjects
from engine.consent.records import ClientId, ParticipantRecord
from engine.pusher.service import Checkpoint, Receiver, Roster
from engine.pusher.streams import DeliveryMethod, StreamRecord

_records: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)
# A look by key for each, whatever the planner thinks of a table with a row for every consent.
_CHANGED: Final = (
    sa.select(subjects.c.seq)
    .where(subjects.c.subject == sa.literal(stream_subject("")) + streams.c.stream_id)
    .correlate(streams)
    .scalar_subquery()
)


class _Own(msgspec.Struct):
    """One receiver's streams. seq: see `Receiver.stream_seq`."""

    streams: list[StreamRecord]
    seq: int = 0


def read_roster(connection: sa.Connection, after: int) -> Roster | None:
    """Participants that have a stream, and the newest checkpoint; None = nothing has changed after `after`.

    What is in it is of now, `last_seq` and the checkpoint too, which count as no change.
    """
    place = connection.execute(sa.select(outbox.c.roster_seq, outbox.c.seq)).first()
    if place is None or place.roster_seq <= after:
        return None
    owned = _owned(connection, place.seq)
    return Roster(place.roster_seq, tuple(_receivers(connection, owned)), _checkpoint(connection))


def _owned(connection: sa.Connection, position: int) -> dict[str, _Own]:
    """By client. position: the outbox's; the ledger, which tells of a stream's newest change, may be ahead of it."""
    owned: dict[str, _Own] = {}
    query = sa.select(streams.c.client_id, streams.c.record, _CHANGED.label("seq")).order_by(streams.c.stream_id)
    for row in connection.execute(query):
        stream, own = _streams.decode(row.record), owned.setdefault(row.client_id, _Own([]))
        own.streams.append(stream)
        if stream.delivery is DeliveryMethod.PUSH and row.seq is not None:
            own.seq = max(own.seq, min(row.seq, position))
    return owned


def _receivers(connection: sa.Connection, owned: dict[str, _Own]) -> Iterable[Receiver]:
    for row in connection.execute(sa.select(receivers).order_by(receivers.c.client_id)):
        if row.client_id in owned:
            record = _records.decode(row.record)
            yield Receiver(
                client_id=ClientId(row.client_id),
                role=record.role,
                suspended=record.suspended,
                certificates=tuple(certificate.thumbprint for certificate in record.certificates),
                streams=tuple(owned[row.client_id].streams),
                last_seq=row.last_seq,
                stream_seq=owned[row.client_id].seq,
            )


def _checkpoint(connection: sa.Connection) -> Checkpoint | None:
    current = sa.select(ledger_meta.c.incarnation).scalar_subquery()
    query = sa.select(checkpoints).where(checkpoints.c.incarnation == current).order_by(checkpoints.c.seq.desc())
    row = connection.execute(query.limit(1)).first()
    if row is None:
        return None
    return Checkpoint(row.incarnation, row.seq, _text(row.hash), row.kid, _text(row.signature))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
