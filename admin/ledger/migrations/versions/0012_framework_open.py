"""An index of what a poll stream holds about itself: it is given while the stream is paused, whatever else waits."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    held = sa.text("poll = 0 AND seq = 0")
    op.create_index(
        "ix_deliveries_framework_open",
        "deliveries",
        ["client_id", "number"],
        sqlite_where=held,
        postgresql_where=held,
    )
