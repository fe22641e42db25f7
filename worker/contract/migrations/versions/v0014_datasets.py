"""Registered data sets: which a job needs, and which a worker has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the columns; the jobs that there are need none, and older workers have none."""
    op.add_column("jobs", sa.Column("dataset", sa.String(100)))
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    op.add_column("workers", sa.Column("datasets", json, nullable=False, server_default="[]"))
