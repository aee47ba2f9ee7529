"""An index by which the oldest event is found that a receiver was told in neither way."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    untold = sa.text("seq > 0 AND ((push IN (0, 2) AND poll NOT IN (1, 2)) OR (push = 3 AND poll = 0))")
    op.create_index(
        "ix_deliveries_untold", "deliveries", ["client_id", "number"], sqlite_where=untold, postgresql_where=untold
    )
