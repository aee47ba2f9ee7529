"""A journal of erasures, and indexes by which a backup finds what came since the one before."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INDEXES = {"idempotency": "seq", "claims": "claimed_at", "reports": "received_at"}


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "erasures",
        sa.Column("number", WHOLE, primary_key=True, autoincrement=False),
        sa.Column("person_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("erased_at", WHOLE, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    for table, column in _INDEXES.items():
        op.create_index(f"ix_{table}_{column}", table, [column])
