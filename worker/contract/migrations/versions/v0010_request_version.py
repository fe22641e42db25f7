"""How new a worker has to be for a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; the jobs that there are can be done by every worker."""
    version = sa.Column("request_version", sa.Integer(), nullable=False, server_default="1")
    op.add_column("jobs", version)
