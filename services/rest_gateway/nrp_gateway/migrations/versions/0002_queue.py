"""What owners ask for their simulations, and simulations that wait for a launcher."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; simulations that are there asked for nothing."""
    op.add_column("simulations", sa.Column("wishes", sa.Text, nullable=False, server_default="{}"))
    op.add_column("simulations", sa.Column("queued_at", sa.Double))
    op.add_column("simulations", sa.Column("sealed_token", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop them."""
    for column in ("wishes", "queued_at", "sealed_token"):
        op.drop_column("simulations", column)
