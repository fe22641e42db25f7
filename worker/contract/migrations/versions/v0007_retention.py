"""Jobs expire a while after their end: that follows from its time, and needs no column."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Drop the column that nothing was written to; find jobs by their end."""
    op.drop_column("jobs", "expires_at")
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
