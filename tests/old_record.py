"""Job records as earlier versions of the program left them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alembic import command
from sqlalchemy import JSON, Boolean, MetaData, Table, insert, select

from worker.contract.database import create_database_engine
from worker.contract.schema import migrations

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of each table."""

PARENTS_FIRST = ("uploads", "jobs", "webhooks")
COUNTED = ("outbox", "webhook_deliveries", "audit")
"""Tables whose rows the database numbers."""


def make_record(database: str, revision: str, rows: Rows) -> None:
    """Make the tables of a revision in an empty database, and put in what was in them then."""
    config = migrations()
    engine = create_database_engine(database)
    tables = MetaData()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    with engine.begin() as connection:
        tables.reflect(connection)
        # What a migration has put in already is in the rows, too.
        own = {name: tables.tables[name] for name in rows if name != "alembic_version"}
        for table in own.values():
            connection.execute(table.delete())
        for name in sorted(own, key=lambda name: (name not in PARENTS_FIRST, name)):
            if rows[name]:
                values = [_values(own[name], row) for row in rows[name]]
                connection.execute(insert(own[name]), values)
    engine.dispose()


def take_back(database: str, revision: str) -> None:
    """Leave a record as the program of a revision would have left it: without what came later."""
    engine = create_database_engine(database)
    now, then = MetaData(), MetaData()
    with engine.begin() as connection:
        now.reflect(connection)
        found = {
            name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for name, table in now.tables.items()
        }
        now.drop_all(connection)
        config = migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        then.reflect(connection)
        kept = {name: set(table.columns.keys()) for name, table in then.tables.items()}
        then.drop_all(connection)
    engine.dispose()
    make_record(
        database,
        revision,
        {
            name: [{key: row[key] for key in row.keys() & columns} for row in found.get(name, ())]
            for name, columns in kept.items()
        },
    )


def _values(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of SQLite as its driver wrote it, for either database."""
    return {
        name: json.loads(value)
        if isinstance(table.c[name].type, JSON) and isinstance(value, str)
        else bool(value)
        if isinstance(table.c[name].type, Boolean)
        else value
        for name, value in row.items()
        if not (name == "id" and table.name in COUNTED)
    }
