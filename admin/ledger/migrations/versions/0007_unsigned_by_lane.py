"""Deliveries without signed bytes by lane: what must be told now is found without looking through a flood of others."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    unsigned = sa.text("signed_at IS NULL")
    op.drop_index("ix_deliveries_unsigned", table_name="deliveries")
    op.create_index(
        "ix_deliveries_unsigned", "deliveries", ["lane", "number"], sqlite_where=unsigned, postgresql_where=unsigned
    )
