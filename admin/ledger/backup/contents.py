"""What a backup holds: which tables, in what order, and why the others are left out. A test knows every table.

A segment begins with its `Head`, then come rows of tables, page by page, and last the count of each. A full segment
holds everything; a tail holds what came since the segment before it.
"""

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger.schema import (
    answer_keys,
    checkpoints,
    claims,
    deliveries,
    erasures,
    event_keys,
    events,
    feed_records,
    idempotency,
    instances,
    ledger_meta,
    outbox,
    person_keys,
    push_lease,
    receivers,
    reports,
    stream_calls,
    streams,
    subjects,
)
from engine.clock import UnixTime

LEFT_OUT: Final[dict[sa.Table, str]] = {
    ledger_meta: "its one row stands in the head of each segment",
    subjects: "follows from the events, and is made anew from them",
    feed_records: "follows from the events, and is made anew from them",
    instances: "processes of nodes under an incarnation that is over; those that live ask and are admitted anew",
    outbox: "follows from the events: deliveries are derived again, with the same ids and the same chains",
    receivers: "follows from the events, as of the outbox's position",
    streams: "follows from the events, as of the outbox's position",
    deliveries: "what a week of events brought is told again under the same ids, so that receivers drop what they have",
    stream_calls: "of polls that waited, and of a minute in which nothing is to be asked again",
    push_lease: "of a pusher of before; epochs begin with the time, so that it can write nothing",
    event_keys: "deliveries that are derived again are signed again, by keys that their pusher states anew",
}


class Kept(msgspec.Struct, frozen=True):
    """A table that is backed up. since: the column that tells what is new, before the primary key. page: rows."""

    table: sa.Table
    why: str
    since: sa.Column[Any] | None = None
    page: int = 5_000

    @property
    def name(self) -> str:
        """The table's name, as plain text."""
        return str(self.table.name)

    @property
    def order(self) -> tuple[sa.Column[Any], ...]:
        """The columns by which rows are read and paged."""
        key = tuple(self.table.primary_key.columns)
        return key if self.since is None else (self.since, *key)


KEPT: Final = (
    Kept(events, "the truth: everything is in them or follows from them"),
    Kept(checkpoints, "signed in their time: they vouch for history, and no key can sign in the past"),
    Kept(idempotency, "a write that is repeated after the restore must not be done twice", idempotency.c.seq),
    Kept(person_keys, "wrapped; without them every personal field is lost, with them it is as safe as in the ledger"),
    Kept(claims, "a one-off consent that was claimed must not be claimed by another share", claims.c.claimed_at),
    Kept(reports, "evidence of shares and security events that nodes have given away", reports.c.received_at, page=8),
    Kept(answer_keys, "EDPs verify answers given before the restore with them"),
    Kept(erasures, "who was erased must stay erased when an older backup is restored"),
)
BY_NAME: Final = {kept.name: kept for kept in KEPT}


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """Up to where a segment reaches; the next one begins there."""

    incarnation: str
    seq: int
    hash: bytes
    checkpoint: int  # seq of the newest checkpoint of this incarnation
    erasure: int  # number of the newest
    wall: float  # when it was read, seconds since 1970: claims and reports have no number
    answer_keys: bytes  # digest of the whole small table


class Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """A segment's beginning. after: None = it is full. recorded_at: of the newest event."""

    ledger: str
    kind: str
    revision: str  # of the schema
    created_at: UnixTime
    key_check: bytes | None  # of the person-wrapping key
    after: Marks | None
    until: Marks
    recorded_at: UnixTime


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """Rows of one table; values in the order of its columns."""

    table: str
    rows: list[list[Any]]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """How many rows of each table there were."""

    counts: dict[str, int]


Part = Head | Rows | End
_encoder = msgspec.msgpack.Encoder()
_parts: Final[msgspec.msgpack.Decoder[Part]] = msgspec.msgpack.Decoder(Part)


def encode(part: Part) -> bytes:
    """A chunk's bytes."""
    return _encoder.encode(part)


def decode(chunk: bytes) -> Part:
    """Read a chunk. Raises msgspec.MsgspecError."""
    return _parts.decode(chunk)
