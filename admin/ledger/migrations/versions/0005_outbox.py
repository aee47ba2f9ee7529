"""The outbox of events for receivers: deliveries, what they follow from, the pusher's lease and its event keys."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT: "sa.Double[float]" = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Apply."""
    _outbox()
    _deliveries()
    _pusher()


def _outbox() -> None:
    _single("outbox", *(_column(name, WHOLE) for name in ("seq", "roster_seq", "numbered", "rows_from")),
            _column("payloads_pruned", WHOLE))  # fmt: skip
    _table(
        "receivers",
        _key("client_id"),
        _column("last_seq", WHOLE),
        _column("pushable", WHOLE),
        _column("record", sa.LargeBinary),
    )
    _table("streams", _key("stream_id"), _column("client_id", sa.Text), _column("record", sa.LargeBinary))


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("number", WHOLE, primary_key=True, autoincrement=False),
        _column("client_id", sa.Text),
        *(_column(name, WHOLE) for name in ("role", "lane", "seq", "prev")),
        *(_column(name, sa.Text) for name in ("jti", "txn", "subject")),
        _column("committed_at", INSTANT),
        sa.Column("fact", sa.LargeBinary),
        sa.Column("compact", sa.LargeBinary),
        sa.Column("signed_at", INSTANT),
        _column("push", WHOLE),
        _column("attempts", WHOLE),
        _column("next_at", INSTANT),
        sa.Column("tried_at", INSTANT),
        _column("error", sa.Text),
        _column("poll", WHOLE),
        sa.Column("polled_at", INSTANT),
        _column("poll_error", sa.Text),
        sqlite_strict=True,
    )
    op.create_index("ix_deliveries_jti", "deliveries", ["client_id", "jti"], unique=True)
    _partial("pending", ["client_id", "lane", "number"], "push = 0")
    _partial("framework", ["lane", "number"], "push = 0 AND seq = 0")
    _partial("parked", ["client_id", "number"], "push = 2")
    _partial("unsigned", ["number"], "signed_at IS NULL")
    _partial("open", ["client_id", "number"], "poll = 0")


def _pusher() -> None:
    _single("push_lease", _column("epoch", WHOLE), _column("holder", sa.Text), _column("until", INSTANT))
    _table(
        "event_keys",
        _key("kid"),
        _column("pusher_id", sa.Text),
        _column("jwk", sa.LargeBinary),
        _column("registered_at", INSTANT),
        _column("published_until", INSTANT),
    )


def _table(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _single(name: str, *parts: sa.schema.SchemaItem) -> None:
    """A table of one row."""
    key = sa.Column("id", WHOLE, primary_key=True, autoincrement=False)
    op.create_table(name, key, *parts, sa.CheckConstraint("id = 1", name="single"), sqlite_strict=True)


def _column(name: str, kind: Any) -> sa.Column[Any]:  # noqa: ANN401 - a column's type may be a class or an instance
    return sa.Column(name, kind, nullable=False)


def _key(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, primary_key=True)


def _partial(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(f"ix_deliveries_{name}", "deliveries", columns, sqlite_where=condition, postgresql_where=condition)
