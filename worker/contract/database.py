"""The database of the job record: SQLite on one machine, PostgreSQL where there are more."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Double

from momentum_core.errors import MomentumError
from worker.contract.tables import REVISION

BUSY_SECONDS = 5
"""How long a process waits for a lock, of SQLite the one that writing takes."""

_READING = "momentum_reading"


class RecordUnavailableError(SQLAlchemyError):
    """The record cannot be written: it is read-only, or its file was removed or replaced."""


UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    InternalError,  # what PostgreSQL says of a record that is read-only
    PoolError,
    RecordUnavailableError,
)
"""What is raised when a record is away, locked, read-only or gone."""


class LostDatabaseError(MomentumError):
    """The record is gone, and the files of its jobs are there."""

    code = "lost_database"


class database_now(FunctionElement[float]):  # noqa: N801 (named as the SQL function it is)
    """The database's own clock, in seconds since 1970: leases compare nobody else's."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _now_of_postgresql(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def open_database(url: str) -> Engine:
    """Return an engine with the schema brought up to date; safe to call in many processes at once.

    Args:
        url: SQLAlchemy URL; the folder of an SQLite file is made if it is not there.
    """
    engine = create_database_engine(url)
    if engine.url.get_backend_name() == "sqlite" and engine.url.database:
        _make_file(Path(engine.url.database))
    if not is_up_to_date(engine):
        # Every process comes by here, and hardly any needs Alembic.
        from worker.contract.schema import upgrade_schema

        upgrade_schema(engine)
    return engine


def _make_file(path: Path) -> None:
    """Make the file of a new record; not in the place of one that was taken away."""
    blobs = path.parent / "blobs"
    if not path.exists() and blobs.is_dir() and any(blobs.iterdir()):
        raise LostDatabaseError(
            f"{path} is gone, while files of its jobs are there; put it back, or move {blobs} away "
            "to begin with an empty record"
        )
    path.touch(0o600)


def create_database_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL; nothing is connected or written yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20)
        event.listen(engine, "connect", _configure_postgresql)
        return engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    if parsed.database:
        files = _FileCheck(Path(parsed.database))
        event.listen(engine, "do_connect", files.name_existing)
        event.listen(engine, "connect", files.opened)
        event.listen(engine, "close", files.closed)
        event.listen(engine, "checkout", files.check)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: Engine) -> Engine:
    """Return the engine for single queries: no transaction, so they never wait for a writer."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READING: True})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def is_up_to_date(engine: Engine) -> bool:
    """Return whether the record's schema is the one of this program."""
    try:
        with reading(engine).connect() as connection:
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except (OperationalError, ProgrammingError):
        return False  # a new record; or one that is away, which will be said in a moment
    return found == REVISION


class _FileCheck:
    """Refuses to work on a file that is not at its place any more, or is another one.

    SQLite would go on to write to what has no name: it would all be gone with the process.
    """

    def __init__(self, path: Path) -> None:
        # The log is there while anyone is connected: what is committed is in it first.
        self._paths = (path, path.with_name(f"{path.name}-wal"))
        self._known: dict[Path, tuple[int, int]] = {}
        self._num_open = 0
        self._is_away = False  # connections that are closed for that change nothing
        self._guard = threading.Lock()

    def name_existing(self, _: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        """Have SQLite open a file that is there; it would make one that is not."""
        self.check()
        arguments[0] = f"file:{quote(str(self._paths[0].absolute()))}?mode=rw"
        options["uri"] = True

    def opened(self, *_: Any) -> None:
        """Count a connection."""
        with self._guard:
            self._num_open += 1

    def closed(self, *_: Any) -> None:
        """Count one less; with the last one the log may go, and another come."""
        with self._guard:
            self._num_open -= 1
            if self._num_open == 0 and not self._is_away:
                self._known.pop(self._paths[1], None)

    def check(self, *_: Any) -> None:
        """Compare the files with those that were there first.

        Raises:
            RecordUnavailableError: they are others, or gone.
        """
        self._is_away = True
        self._compare()
        self._is_away = False

    def _compare(self) -> None:
        for path in self._paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                if path in self._known:
                    raise RecordUnavailableError(f"{path} is gone") from None
                continue  # nothing was written yet
            except OSError as error:
                raise RecordUnavailableError(f"{path} cannot be looked at: {error}") from error
            state = (found.st_dev, found.st_ino)
            if self._known.setdefault(path, state) != state:
                raise RecordUnavailableError(f"{path} was replaced; start this process again")


def _configure_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.commit()


def _configure_sqlite(connection: Any, _: Any) -> None:
    # Python's driver would open transactions by itself, late and of the wrong kind.
    connection.isolation_level = None
    _keep_a_write_ahead_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _keep_a_write_ahead_log(connection: Any) -> None:
    # SQLite does not wait for the lock of this one change, made once in the life of a file: of two
    # processes that make it at the same time, one would be told at once that the file is locked.
    given_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > given_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_READING):
        return
    # The write lock at once: a transaction that reads first could not get it later.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
