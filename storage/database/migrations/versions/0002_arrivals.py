"""Number rung results by arrival, so that a reader reads only what is new; keep the seed of their training."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "scenetune_records"


def upgrade() -> None:
    """Add the columns and their index; results of before arrive in the order of the table."""
    op.execute(f"CREATE SEQUENCE {SCHEMA}.rung_arrival")
    op.add_column(
        "rung_result",
        sa.Column(
            "arrival", sa.BigInteger, nullable=False, server_default=sa.text(f"nextval('{SCHEMA}.rung_arrival')")
        ),
        schema=SCHEMA,
    )
    op.add_column("rung_result", sa.Column("seed", sa.BigInteger, nullable=False, server_default="0"), schema=SCHEMA)
    op.create_index("rung_result_by_arrival", "rung_result", ["study", "arrival"], schema=SCHEMA)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("rung_result_by_arrival", "rung_result", schema=SCHEMA)
    for column in ("seed", "arrival"):
        op.drop_column("rung_result", column, schema=SCHEMA)
    op.execute(f"DROP SEQUENCE {SCHEMA}.rung_arrival")
