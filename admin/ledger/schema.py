"""All tables of the ledger's database, as SQLAlchemy Core sees them; migrations are held to this picture.

`events` is the truth and only grows; `checkpoints` too (triggers in the migrations refuse everything else).
`subjects` and `feed_records` are derived from it in the same transaction and could be rebuilt. The other tables
hold state that must not be lost or doubled but is not history.
"""

from typing import Final

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
