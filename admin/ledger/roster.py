"""All receivers with their streams as the outbox knows them, for the pusher."""

import base64
from collections.abc import Iterable
from typing import Final

import msgspec
import sqlalchemy as sa

from admin.ledger.schema import checkpoints, ledger_meta, outbox, receivers, streams
from engine.consent.records import ClientId, ParticipantRecord
from engine.pusher.service import Checkpoint, Receiver, Roster
from engine.pusher.streams import StreamRecord

_records: Final = msgspec.msgpack.Decoder(ParticipantRecord)
_streams: Final = msgspec.msgpack.Decoder(StreamRecord)


def read_roster(connection: sa.Connection, after: int) -> Roster | None:
    """Participants that have a stream, and the newest checkpoint; None = nothing has changed after `after`.

    What is in it is of now, `last_seq` and the checkpoint too, which count as no change.
    """
    version = connection.execute(sa.select(outbox.c.roster_seq)).scalar()
    if version is None or version <= after:
        return None
    by_client: dict[str, list[StreamRecord]] = {}
    for row in connection.execute(sa.select(streams).order_by(streams.c.stream_id)):
        by_client.setdefault(row.client_id, []).append(_streams.decode(row.record))
    return Roster(version, tuple(_receivers(connection, by_client)), _checkpoint(connection))


def _receivers(connection: sa.Connection, by_client: dict[str, list[StreamRecord]]) -> Iterable[Receiver]:
    for row in connection.execute(sa.select(receivers).order_by(receivers.c.client_id)):
        if row.client_id in by_client:
            record = _records.decode(row.record)
            yield Receiver(
                client_id=ClientId(row.client_id),
                role=record.role,
                suspended=record.suspended,
                certificates=tuple(certificate.thumbprint for certificate in record.certificates),
                streams=tuple(by_client[row.client_id]),
                last_seq=row.last_seq,
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
