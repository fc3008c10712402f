"""The table of simulations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UNFINISHED = sa.text("state NOT IN ('stopped', 'failed')")


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "simulations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("experiment_id", sa.Text, nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("main_script", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("context_id", sa.Text),
        sa.Column("slot", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("launcher", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("logs", sa.Text),
        sa.Column("results", sa.Text),
        sa.Column("ended_at", sa.Double),
        sa.Column("cleaned", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_unfinished_simulation_a_slot",
        "simulations",
        ["slot"],
        unique=True,
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_index("simulations_by_end", "simulations", ["ended_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("simulations")
