"""Alembic's entry: run the migrations on the connection that `upgrade_schema` passes."""

from __future__ import annotations

from alembic import context

from momentum_core.failpoints import reach
from worker.contract.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    on_version_apply=lambda **_: reach("database.step"),
)
context.run_migrations()
