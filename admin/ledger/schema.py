"""All tables of the ledger's database, as SQLAlchemy Core sees them; migrations are held to this picture.

`events` is the truth and only grows; `checkpoints` too (triggers in the migrations refuse everything else).
`subjects` and `feed_records` are derived from it in the same transaction and could be rebuilt. The other tables
hold state that must not be lost or doubled but is not history.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Table, Text

# SQLite's STRICT tables know five types only; PostgreSQL's INTEGER and REAL would be too small.
WHOLE: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT: Final[sa.Double[float]] = sa.Double().with_variant(
    sa.REAL(), "sqlite"
)  # seconds since 1970-01-01 UTC, with fraction

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ledger_meta = Table(
    "ledger_meta",
    metadata,
    Column("id", WHOLE, primary_key=True, autoincrement=False),
    Column("incarnation", Text, nullable=False),  # of events written from now on
    Column("kind", Text, nullable=False),  # sandbox | production
    Column("head_seq", WHOLE, nullable=False),  # of the last event; locking this row makes a writer the only one
    Column("head_hash", LargeBinary, nullable=False),
    Column("created_at", WHOLE, nullable=False),
    Column("key_check", LargeBinary),  # of the key that wraps persons' keys; NULL until a start with the right one
    CheckConstraint("id = 1", name="single"),
    sqlite_strict=True,
)

events = Table(
    "events",
    metadata,
    Column("seq", WHOLE, primary_key=True, autoincrement=False),
    Column("incarnation", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("tag", Text, nullable=False),
    Column("version", WHOLE, nullable=False),  # of the subject after this event
    Column("recorded_at", WHOLE, nullable=False),  # whole seconds since 1970-01-01 UTC
    Column("body", LargeBinary, nullable=False),
    Column("person_id", Text),
    Column("ciphertext", LargeBinary),
    Column("feed_kind", WHOLE),  # null: engines get an empty entry
    Column("feed_key", LargeBinary),
    Column("feed_record", LargeBinary),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
)

subjects = Table(
    "subjects",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("version", WHOLE, nullable=False),
    Column("seq", WHOLE, nullable=False),  # of its newest event
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

feed_records = Table(
    "feed_records",
    metadata,
    Column("kind", WHOLE, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, primary_key=True),
    Column("seq", WHOLE, nullable=False),  # of the event that wrote it
    Column("record", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("incarnation", Text, primary_key=True),
    Column("seq", WHOLE, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    Column("signed_at", WHOLE, nullable=False),
    Column("kid", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_digest", LargeBinary, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("seq", WHOLE, nullable=False),
    Column("version", WHOLE, nullable=False),
    Column("committed_at", INSTANT, nullable=False),
    Index(None, "seq"),  # a backup looks for what came since the one before; the same goes for the indexes below
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

person_keys = Table(
    "person_keys",
    metadata,
    Column("person_id", Text, primary_key=True),
    Column("key_id", LargeBinary, nullable=False),  # stands before each ciphertext: an erased key's are told apart
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at", WHOLE, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

erasures = Table(
    "erasures",
    metadata,
    Column("number", WHOLE, primary_key=True, autoincrement=False),
    Column("person_id", Text, nullable=False),
    Column("key_id", LargeBinary, nullable=False),  # of the key that was destroyed; the person may have another since
    Column("erased_at", WHOLE, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

instances = Table(
    "instances",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("node_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", INSTANT, nullable=False),  # when it took this state
    Column("last_seen", INSTANT, nullable=False),
    Column("applied", WHOLE, nullable=False),
    CheckConstraint("state IN ('in', 'leaving')", name="state"),
    sqlite_strict=True,
)

claims = Table(
    "claims",
    metadata,
    Column("consent_id", Text, primary_key=True),
    Column("edp", Text, primary_key=True),
    Column("share_id", Text, nullable=False),
    Column("claimed_at", INSTANT, nullable=False),
    Index(None, "claimed_at"),
    sqlite_strict=True,
)

reports = Table(
    "reports",
    metadata,
    Column("client_id", Text, primary_key=True),  # whose key it is: one client cannot use up another's
    Column("idempotency_key", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", INSTANT, nullable=False),
    Index(None, "received_at"),
    sqlite_strict=True,
)

answer_keys = Table(
    "answer_keys",
    metadata,
    Column("kid", Text, primary_key=True),  # RFC 7638 thumbprint
    Column("node_id", Text, nullable=False),
    Column("jwk", LargeBinary, nullable=False),  # the public half, JSON
    Column("registered_at", INSTANT, nullable=False),
    Column("published_until", INSTANT, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# What is told to receivers follows from the events; what became of it does not: signed bytes, outcomes, what was
# acknowledged. Bytes are sent again as they were kept: whatever makes the outbox anew leaves rows that are there alone.

outbox = Table(
    "outbox",
    metadata,
    Column("id", WHOLE, primary_key=True, autoincrement=False),
    Column("seq", WHOLE, nullable=False),  # up to this event of the ledger deliveries have been made
    Column("roster_seq", WHOLE, nullable=False),  # of the newest of them that changed a receiver or a stream
    Column("numbered", WHOLE, nullable=False),  # the highest number given out; whoever gives more holds this row
    Column("rows_from", WHOLE, nullable=False),  # events recorded before it only move the chains on
    Column("payloads_pruned", WHOLE, nullable=False),  # the highest number whose payload was erased by age
    Column("pruned_as_of", INSTANT),  # see admin.ledger.pruned_as_of; NULL = nothing was pruned yet
    CheckConstraint("id = 1", name="single"),
    sqlite_strict=True,
)

receivers = Table(
    "receivers",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("last_seq", WHOLE, nullable=False),  # of its newest event, told or not: the next one's `ccs_prev`
    Column("pushable", WHOLE, nullable=False),  # 1: it has a push stream that is confirmed and enabled
    Column("record", LargeBinary, nullable=False),  # ParticipantRecord as of the outbox's seq
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

streams = Table(
    "streams",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),  # StreamRecord as of the outbox's seq; deleted ones are not here
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# What holds for a stream over all instances of the application, by the database's clock.
stream_calls = Table(
    "stream_calls",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("polled_by", Text, nullable=False),  # which poll waits …
    Column("polled_until", INSTANT, nullable=False),  # … at most until then: one whose process was killed is over too
    Column("verified_at", INSTANT, nullable=False),  # when a verification was last asked for
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("number", WHOLE, primary_key=True, autoincrement=False),
    Column("client_id", Text, nullable=False),  # the receiver
    Column("role", WHOLE, nullable=False),
    Column("lane", WHOLE, nullable=False),
    Column("seq", WHOLE, nullable=False),  # 0: a framework event
    Column("prev", WHOLE, nullable=False),
    Column("jti", Text, nullable=False),
    Column("txn", Text, nullable=False),
    Column("subject", Text, nullable=False),  # consent, client or stream that it is about
    Column("committed_at", INSTANT, nullable=False),
    Column("fact", LargeBinary),  # NULL once the payload was erased by age, like `compact`
    Column("compact", LargeBinary),  # the signed bytes, once there are any
    Column("signed_at", INSTANT),
    Column("push", WHOLE, nullable=False),  # admin.ledger.outbox.Push
    Column("attempts", WHOLE, nullable=False),
    Column("next_at", INSTANT, nullable=False),
    Column("tried_at", INSTANT),  # the newest attempt
    Column("error", Text, nullable=False),
    Column("poll", WHOLE, nullable=False),  # admin.ledger.outbox.Poll
    Column("polled_at", INSTANT),  # acknowledged, or refused by the receiver
    Column("poll_error", Text, nullable=False),
    sqlite_strict=True,
)
Index("ix_deliveries_jti", deliveries.c.client_id, deliveries.c.jti, unique=True)


def _partial(name: str, where: str, *columns: sa.Column[Any]) -> Index:
    """What is done leaves it, so that it stays as small as the work that is left."""
    condition = sa.text(where)
    return Index(f"ix_deliveries_{name}", *columns, sqlite_where=condition, postgresql_where=condition)


_partial("pending", "push = 0", deliveries.c.client_id, deliveries.c.lane, deliveries.c.number)
_partial("framework", "push = 0 AND seq = 0", deliveries.c.lane, deliveries.c.number)
_partial("parked", "push = 2", deliveries.c.client_id, deliveries.c.number)
_partial("unsigned", "signed_at IS NULL", deliveries.c.lane, deliveries.c.number)
_partial("open", "poll = 0", deliveries.c.client_id, deliveries.c.number)
_partial("framework_open", "poll = 0 AND seq = 0", deliveries.c.client_id, deliveries.c.number)
# Neither pushed nor acknowledged by poll, and still to be had one way or the other: `deliveries.UNTOLD` names it.
_partial(
    "untold",
    "seq > 0 AND ((push IN (0, 2) AND poll NOT IN (1, 2)) OR (push = 3 AND poll = 0))",
    deliveries.c.client_id,
    deliveries.c.number,
)
_partial("chain", "seq > 0", deliveries.c.client_id, deliveries.c.seq)  # all of a receiver's events, for listings

push_lease = Table(
    "push_lease",
    metadata,
    Column("id", WHOLE, primary_key=True, autoincrement=False),
    Column("epoch", WHOLE, nullable=False),
    Column("holder", Text, nullable=False),
    Column("until", INSTANT, nullable=False),
    Column("told", WHOLE, nullable=False, server_default="0"),  # the newest batch of outcomes under this epoch
    CheckConstraint("id = 1", name="single"),
    sqlite_strict=True,
)

event_keys = Table(
    "event_keys",
    metadata,
    Column("kid", Text, primary_key=True),  # RFC 7638 thumbprint
    Column("pusher_id", Text, nullable=False),
    Column("jwk", LargeBinary, nullable=False),  # the public half, JSON
    Column("registered_at", INSTANT, nullable=False),
    Column("published_until", INSTANT, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
