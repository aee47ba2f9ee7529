"""The moment as of which old deliveries were let go last: it does not leap with a clock."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("outbox", sa.Column("pruned_as_of", sa.Double().with_variant(sa.REAL(), "sqlite")))
