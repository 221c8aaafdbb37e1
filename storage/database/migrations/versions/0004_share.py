"""Let a lease say how much of its trial is done."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "scenetune_records"


def upgrade() -> None:
    """Add the column."""
    op.add_column("lease", sa.Column("progress", sa.Double), schema=SCHEMA)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lease", "progress", schema=SCHEMA)
