"""A place for the public halves of the keys that nodes sign their answers with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT: "sa.Double[float]" = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "answer_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("jwk", sa.LargeBinary, nullable=False),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.Column("published_until", INSTANT, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
