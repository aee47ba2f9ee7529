"""The ledger's first tables, and the triggers that let history only grow.

Written out and frozen: later changes to `schema` must not change what this step once did. There is no way down:
a ledger is restored from a backup, never un-migrated.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT: "sa.Double[float]" = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Apply."""
    _truth()
    _derived()
    _kept()
    _of_nodes()
    for table in ("events", "checkpoints"):
        for statement in _refusals(table):
            op.execute(statement)


def _truth() -> None:
    _table(
        "ledger_meta",
        sa.Column("id", WHOLE, primary_key=True, autoincrement=False),
        _column("incarnation", sa.Text),
        _column("kind", sa.Text),
        _column("head_seq", WHOLE),
        _column("head_hash", sa.LargeBinary),
        _column("created_at", WHOLE),
        sa.CheckConstraint("id = 1", name="single"),
    )
    _table(
        "events",
        sa.Column("seq", WHOLE, primary_key=True, autoincrement=False),
        _column("incarnation", sa.Text),
        _column("subject", sa.Text),
        _column("tag", sa.Text),
        _column("version", WHOLE),
        _column("recorded_at", WHOLE),
        _column("body", sa.LargeBinary),
        sa.Column("person_id", sa.Text),
        sa.Column("ciphertext", sa.LargeBinary),
        sa.Column("feed_kind", WHOLE),
        sa.Column("feed_key", sa.LargeBinary),
        sa.Column("feed_record", sa.LargeBinary),
        _column("previous_hash", sa.LargeBinary),
        _column("hash", sa.LargeBinary),
    )
    _table(
        "checkpoints",
        _key("incarnation", sa.Text),
        _key("seq", WHOLE),
        _column("hash", sa.LargeBinary),
        _column("signed_at", WHOLE),
        _column("kid", sa.Text),
        _column("signature", sa.LargeBinary),
        sqlite_with_rowid=False,
    )


def _derived() -> None:
    _table(
        "subjects",
        _key("subject", sa.Text),
        _column("version", WHOLE),
        _column("seq", WHOLE),
        sqlite_with_rowid=False,
    )
    _table(
        "feed_records",
        _key("kind", WHOLE),
        _key("key", sa.LargeBinary),
        _column("seq", WHOLE),
        _column("record", sa.LargeBinary),
        sqlite_with_rowid=False,
    )


def _kept() -> None:
    _table(
        "idempotency",
        _key("client_id", sa.Text),
        _key("key", sa.Text),
        _column("body_digest", sa.LargeBinary),
        _column("incarnation", sa.Text),
        _column("seq", WHOLE),
        _column("version", WHOLE),
        _column("committed_at", INSTANT),
        sqlite_with_rowid=False,
    )
    _table(
        "person_keys",
        _key("person_id", sa.Text),
        _column("key_id", sa.LargeBinary),
        _column("wrapped_key", sa.LargeBinary),
        _column("created_at", WHOLE),
        sqlite_with_rowid=False,
    )


def _of_nodes() -> None:
    _table(
        "instances",
        _key("instance", sa.Text),
        _column("node_id", sa.Text),
        _column("state", sa.Text),
        _column("since", INSTANT),
        _column("last_seen", INSTANT),
        _column("applied", WHOLE),
        sa.CheckConstraint("state IN ('in', 'leaving')", name="state"),
    )
    _table(
        "claims",
        _key("consent_id", sa.Text),
        _key("edp", sa.Text),
        _column("share_id", sa.Text),
        _column("claimed_at", INSTANT),
    )
    _table(
        "reports",
        _key("client_id", sa.Text),
        _key("idempotency_key", sa.Text),
        _column("body", sa.LargeBinary),
        _column("received_at", INSTANT),
    )


def _table(name: str, *parts: sa.schema.SchemaItem, sqlite_with_rowid: bool = True) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=sqlite_with_rowid)


def _column(name: str, kind: Any) -> sa.Column[Any]:  # noqa: ANN401 - a column's type may be a class or an instance
    return sa.Column(name, kind, nullable=False)


def _key(name: str, kind: Any) -> sa.Column[Any]:  # noqa: ANN401 - a column's type may be a class or an instance
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _refusals(table: str) -> list[str]:
    if op.get_bind().dialect.name == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}"
            f" BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
            for action in ("update", "delete")
        ]
    refuse = "BEGIN RAISE EXCEPTION '% only grows', TG_TABLE_NAME; END"
    actions = f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT"  # truncation too, and no rows too
    return [
        f"CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ {refuse} $$",
        f"CREATE TRIGGER {table}_only_grows {actions} EXECUTE FUNCTION refuse_change()",
    ]
