"""The number of the newest batch of outcomes that was told under the pusher's lease."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("push_lease", sa.Column("told", whole, nullable=False, server_default="0"))
