"""Make the tables of studies, rung results and finished stages."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "scenetune_records"


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "study",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_table(
        "rung_result",
        _study(),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("recall", sa.Double, nullable=False),
        sa.Column("scene_recalls", JSONB, nullable=False),
        sa.Column("cost_seconds", sa.Double, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_table(
        "stage",
        _study(),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("result", JSONB, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )


def downgrade() -> None:
    """Drop the three tables and what is in them."""
    for table in ("stage", "rung_result", "study"):
        op.drop_table(table, schema=SCHEMA)


def _study() -> sa.Column[str]:
    return sa.Column("study", sa.Text, sa.ForeignKey(f"{SCHEMA}.study.name", ondelete="CASCADE"), primary_key=True)
