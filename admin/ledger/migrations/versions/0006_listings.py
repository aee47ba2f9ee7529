"""An index by which a receiver's events are listed in the order of their positions."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    told = sa.text("seq > 0")
    op.create_index("ix_deliveries_chain", "deliveries", ["client_id", "seq"], sqlite_where=told, postgresql_where=told)
