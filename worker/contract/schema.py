"""Brings the record's schema up to date: Alembic, which only who needs it imports."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, text

from momentum_core.errors import MomentumError
from momentum_core.failpoints import reach

_MIGRATION_LOCK = 7_102_072_102  # any number that nobody else takes


class NewerDatabaseError(MomentumError):
    """The record was made by a newer version of this program."""

    code = "newer_database"


def migrations() -> Config:
    """Return Alembic's configuration: where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(files("worker.contract") / "migrations"))
    return config


def upgrade_schema(engine: Engine) -> None:
    """Apply the migrations that are missing, in one transaction; others wait meanwhile."""
    config = migrations()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Others may upgrade for longer than anybody waits for a row.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            if "Can't locate revision" not in str(error):
                raise
            raise NewerDatabaseError(
                "the database was upgraded by a newer version of this program; start that one, "
                "everywhere"
            ) from None
        reach("database.upgraded")
