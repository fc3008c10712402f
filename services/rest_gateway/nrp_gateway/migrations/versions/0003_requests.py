"""The requests that launched simulations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = ("request_id", "traceparent")


def upgrade() -> None:
    """Add the columns; of simulations that are there nothing is known."""
    for column in COLUMNS:
        op.add_column("simulations", sa.Column(column, sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop them."""
    for column in COLUMNS:
        op.drop_column("simulations", column)
