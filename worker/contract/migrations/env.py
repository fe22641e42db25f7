"""Alembic's entry: run the migrations on the connection that `upgrade_schema` passes."""

from __future__ import annotations

from alembic import context

from worker.contract.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
