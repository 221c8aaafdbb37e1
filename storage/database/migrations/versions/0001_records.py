"""Create the tables of studies, rung results, stages, leases and control."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "scenetune_study",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("files", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False, server_default=""),
        _now("created_at"),
    )
    _create_rung_result()
    op.create_table(
        "scenetune_stage",
        _study(),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("result", JSONB, nullable=False),
        _now("finished_at"),
    )
    op.create_table(
        "scenetune_control",
        _study(),
        sa.Column("stop", sa.Text),
        sa.Column("deadline", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Text, nullable=False),
    )
    _create_lease()


def _create_rung_result() -> None:
    op.execute("CREATE SEQUENCE scenetune_rung_arrival")
    op.create_table(
        "scenetune_rung_result",
        _study(),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rung", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("recall", sa.Double, nullable=False),
        sa.Column("scene_recalls", JSONB, nullable=False),
        sa.Column("cost_seconds", sa.Double, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False, server_default="0"),
        _now("recorded_at"),
        sa.Column(
            "arrival", sa.BigInteger, nullable=False, server_default=sa.text("nextval('scenetune_rung_arrival')")
        ),
    )
    op.create_index("scenetune_rung_result_by_arrival", "scenetune_rung_result", ["study", "arrival"])


def _create_lease() -> None:
    op.create_table(
        "scenetune_lease",
        sa.Column("study", sa.Text, primary_key=True),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        _now("acquired_at"),
        _now("renewed_at"),
        sa.Column("suspected_at", sa.DateTime(timezone=True)),
        sa.Column("progress", sa.Double),
    )


def _study() -> sa.Column[str]:
    return sa.Column("study", sa.Text, sa.ForeignKey("scenetune_study.name", ondelete="CASCADE"), primary_key=True)


def _now(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
