"""Who works on which trial, and what a study's workers are told: stop, a deadline, the version that they must have."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "scenetune_records"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "lease",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("suspected_at", sa.DateTime(timezone=True)),
        schema=SCHEMA,
    )
    op.create_table(
        "control",
        sa.Column("study", sa.Text, sa.ForeignKey(f"{SCHEMA}.study.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("stop", sa.Text),
        sa.Column("deadline", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Text, nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("control", schema=SCHEMA)
    op.drop_table("lease", schema=SCHEMA)
