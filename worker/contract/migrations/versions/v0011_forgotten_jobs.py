"""How many jobs have ended does not fall when jobs are forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the table, with its rows; those that are forgotten already are not counted."""
    forgotten = op.create_table(
        "forgotten_jobs",
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("num_jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("state", name="pk_forgotten_jobs"),
    )
    states = ("succeeded", "failed", "cancelled")
    op.bulk_insert(forgotten, [{"state": one, "num_jobs": 0} for one in states])
