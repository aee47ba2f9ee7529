"""A table of what holds for a stream over all instances: which poll waits, when a verification was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


INSTANT: sa.Double[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "stream_calls",
        sa.Column("stream_id", sa.Text, primary_key=True),
        sa.Column("polled_by", sa.Text, nullable=False),
        sa.Column("polled_until", INSTANT, nullable=False),
        sa.Column("verified_at", INSTANT, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
