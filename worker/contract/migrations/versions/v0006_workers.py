"""Workers and queues: who is there, and what is paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

_JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Make the tables; the queue of conversions is there from the start. Find who waits for it."""
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("queues", _JSON, nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("torch_version", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=32)),
        sa.Column("device_model", sa.Text()),
        sa.Column("device_bytes", sa.BigInteger()),
        sa.Column("num_threads", sa.Integer()),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("is_draining", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
    queues = op.create_table(
        "queues",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("paused_at", sa.Double()),
        sa.PrimaryKeyConstraint("name", name="pk_queues"),
    )
    op.bulk_insert(queues, [{"name": "momentum-convert", "paused_at": None}])
    op.create_index(
        "ix_jobs_state_waiting_for_created_at", "jobs", ["state", "waiting_for", "created_at"]
    )
