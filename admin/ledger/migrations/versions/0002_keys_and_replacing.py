"""A place for the person-wrapping key's check value, and triggers against replacing rows of history.

`INSERT OR REPLACE` deletes the old row without firing its delete trigger, unless the connection itself asked for
`recursive_triggers`: a foreign one has not. PostgreSQL replaces by updating, which 0001 refuses already.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEYS = {"events": ("seq",), "checkpoints": ("incarnation", "seq")}


def upgrade() -> None:
    """Apply."""
    op.add_column("ledger_meta", sa.Column("key_check", sa.LargeBinary()))
    if op.get_bind().dialect.name == "sqlite":
        for table, key in _KEYS.items():
            op.execute(_refusal(table, key))


def _refusal(table: str, key: tuple[str, ...]) -> str:
    same = " AND ".join(f"{column} = NEW.{column}" for column in key)
    exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"  # noqa: S608 - names of ours
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
    return f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {exists} {refuse}"
