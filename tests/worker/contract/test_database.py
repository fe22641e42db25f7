"""The schema: what the migrations make is what the code expects."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from worker.contract.database import (
    LostDatabaseError,
    create_database_engine,
    open_database,
)
from worker.contract.schema import migrations, upgrade_schema
from worker.contract.tables import REVISION, metadata


def test_the_migrations_make_the_tables_of_the_code(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_the_tables_are_those_of_the_newest_migration():
    """Or a process would not see that there is something to bring up to date."""
    assert ScriptDirectory.from_config(migrations()).get_heads() == [REVISION]


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(engine, store, job):
    upgrade_schema(engine)
    assert store.get(job.id, tenant="default") == job


def test_many_processes_may_bring_up_the_schema_at_once(database_url):
    failures = []

    def bring_up():
        try:
            open_database(database_url).dispose()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=bring_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_new_sqlite_file_that_somebody_writes_is_waited_for(tmp_path):
    path = tmp_path / "x.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE theirs (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO theirs VALUES (1)")
    release = threading.Timer(0.5, other.execute, args=("COMMIT",))
    release.start()
    open_database(f"sqlite:///{path}").dispose()
    release.join()
    other.close()
    with closing(sqlite3.connect(path)) as now:
        assert now.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_sqlite_is_durable_and_does_not_block_its_readers(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    engine.dispose()


def test_a_transaction_that_fails_is_rolled_back_as_a_whole(engine):
    def fail_midway():
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE scratch (id INTEGER)"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    with engine.connect() as connection:
        assert "scratch" not in inspect(connection).get_table_names()


def test_an_engine_connects_to_nothing_before_it_is_used():
    create_database_engine("postgresql+psycopg://nobody@127.0.0.1:1/none").dispose()


def test_a_record_that_was_taken_away_is_not_begun_anew(tmp_path):
    """What collects files would take all of them for nobody's."""
    url = f"sqlite:///{tmp_path / 'momentum.db'}"
    open_database(url).dispose()
    (tmp_path / "blobs" / "ab").mkdir(parents=True)
    open_database(url).dispose()
    for path in tmp_path.glob("momentum.db*"):
        path.unlink()
    with pytest.raises(LostDatabaseError, match="put it back"):
        open_database(url)
    assert not (tmp_path / "momentum.db").exists()
