"""What a claim chooses by: a job's lane, its memory and urgency, and when tenants were served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the columns; the jobs that there are can be done by every worker."""
    for column in (
        sa.Column("lane", sa.String(16), nullable=False, server_default="any"),
        sa.Column("memory_bytes", sa.BigInteger()),
        sa.Column("priority_rank", sa.Integer(), nullable=False, server_default="1"),
    ):
        op.add_column("jobs", column)
    op.create_index(
        "ix_jobs_state_tenant_priority_rank_created_at_id_lane",
        "jobs",
        ["state", "tenant", "priority_rank", "created_at", "id", "lane"],
    )
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("served_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
