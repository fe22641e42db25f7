"""What the service needs of this machine; nothing is made or changed by looking."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import redis
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from api.diagnosis.findings import Finding, fault, ok, skipped, warning
from api.supervisor import ServiceError
from api.supervisor.valkey import embedded_broker, find_server
from api.words import duration, size
from worker.contract.database import create_database_engine, database_now, reading
from worker.contract.intake import SandboxError, sandbox_report
from worker.contract.job import JobState
from worker.contract.settings import Settings
from worker.contract.tables import jobs, outbox

BROKER_SECONDS = 2.0
DATABASE_SECONDS = "5"
UNSENT_SECONDS = 10.0
"""A message that waits for so long is waiting for a relay that does not run."""


def check_data_folder(settings: Settings) -> Finding:
    """Look whether the data folder can be used, and by whom."""
    folder = settings.data_folder
    name = "data folder"
    remedy = "choose another one with MOMENTUM_DATA_DIR or --data-dir, or mend its permissions"
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        return fault(name, f"{existing} is a file", remedy)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return fault(name, f"{existing} cannot be written to: {error.strerror}", remedy)
    if existing != folder:
        return ok(name, f"{folder} is not there yet; momentum serve makes it")
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return warning(
            name,
            f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}",
            "run the service, and this command, as the user it belongs to",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warning(
            name,
            f"others on this machine can look into {folder} ({stat.filemode(found.st_mode)})",
            f"chmod 700 {folder}",
        )
    return ok(name, str(folder))


def check_disk(settings: Settings) -> Finding:
    """Look whether there is room for uploads."""
    folder = settings.data_folder
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free
    detail = f"{size(free)} are free; uploads need more than {size(settings.min_free_bytes)}"
    if free < settings.min_free_bytes:
        return fault("disk", detail, "free some, or lower MOMENTUM_MIN_FREE_BYTES")
    return ok("disk", detail)


def check_database(settings: Settings) -> tuple[Engine | None, Finding]:
    """Connect to the job record, and compare its schema with this version's.

    Returns:
        An engine, if the record can be read; and what was found.
    """
    remedy = "look at MOMENTUM_DATABASE_URL and at the database's own log"
    try:
        url = make_url(settings.database)
        backend = url.get_backend_name()
        if backend == "sqlite" and url.database and not Path(url.database).exists():
            return None, ok(
                "database", f"{url.database} is not there yet; the first start makes it"
            )
        if backend == "postgresql":
            url = url.update_query_dict({"connect_timeout": DATABASE_SECONDS})
        engine = create_database_engine(url.render_as_string(hide_password=False))
        with reading(engine).connect() as connection:
            if backend == "sqlite":
                state = connection.execute(text("PRAGMA quick_check(1)")).scalar()
                if state != "ok":
                    raise _DamagedError(str(state))
            revision = MigrationContext.configure(connection).get_current_revision()
    except ArgumentError:
        return None, fault("database", "MOMENTUM_DATABASE_URL is no URL of a database", remedy)
    except (SQLAlchemyError, _DamagedError, OSError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        shown = make_url(settings.database).render_as_string()
        if "malformed" in reason or "not a database" in reason or isinstance(error, _DamagedError):
            return None, fault(
                "database",
                f"{shown} is damaged: {reason}",
                "stop the service and put a backup of it in its place",
            )
        return None, fault("database", f"{shown} cannot be used: {reason}", remedy)
    return _compare_schema(engine, revision, backend)


class _DamagedError(Exception):
    """SQLite finds something wrong inside the file."""


def _compare_schema(
    engine: Engine, revision: str | None, backend: str
) -> tuple[Engine | None, Finding]:
    scripts = ScriptDirectory(str(files("worker.contract") / "migrations"))
    known = [script.revision for script in scripts.walk_revisions()]  # the newest first
    if revision is None or revision in known[1:]:
        found = "has no schema yet" if revision is None else "has an older schema"
        return None, ok("database", f"{backend} answers; it {found}, which the next start mends")
    if revision not in known:
        return None, fault(
            "database",
            f"its schema is {revision}, which this version does not know",
            "run the version of the service that made it, or a newer one",
        )
    return engine, ok("database", f"{backend} answers, its schema is this version's")


def check_broker(settings: Settings) -> tuple[str | None, Finding]:
    """Ask the broker.

    Returns:
        Its URL as Celery writes it, if it answers; and what was found.
    """
    url = settings.broker_url
    if url is None:
        try:
            find_server()
        except ServiceError as error:
            return None, fault("broker", str(error), "install one, or set MOMENTUM_BROKER_URL")
        if not is_serving(settings.data_folder):
            return None, skipped("broker", "the embedded one runs while momentum serve does")
        url = embedded_broker(settings.data_folder).url
    remedy = "start it, or look at MOMENTUM_BROKER_URL"
    try:
        with redis.Redis.from_url(
            url.replace("redis+socket://", "unix://", 1),
            socket_timeout=BROKER_SECONDS,
            socket_connect_timeout=BROKER_SECONDS,
        ) as client:
            client.ping()
            policy = _eviction(client)
    except (redis.RedisError, OSError, ValueError) as error:
        return None, fault("broker", f"it does not answer: {_without_password(error)}", remedy)
    if policy is not None:
        return url, warning(
            "broker",
            f"it throws messages away when its memory is full (maxmemory-policy {policy})",
            "set maxmemory-policy to noeviction",
        )
    return url, ok("broker", "it answers")


def is_serving(folder: Path) -> bool:
    """Return whether `momentum serve` runs in a data folder."""
    try:
        descriptor = os.open(folder / "service.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def check_relay(engine: Engine | None) -> Finding:
    """Look whether messages wait that a relay would have sent."""
    if engine is None:
        return skipped("relay", "it shows in the job record, which is not there")
    query = select(database_now() - func.min(outbox.c.created_at)).where(outbox.c.sent_at.is_(None))
    with reading(engine).connect() as connection:
        waiting = connection.scalar(query)
    if waiting is not None and waiting > UNSENT_SECONDS:
        return fault(
            "relay",
            f"a job has waited for {duration(waiting)} to be announced to workers",
            "start one: python -m worker.relay (momentum serve does); its log says what keeps it",
        )
    return ok("relay", "no job waits to be announced")


def num_queued(engine: Engine | None) -> int:
    """Return how many jobs wait."""
    if engine is None:
        return 0
    query = select(func.count()).where(jobs.c.state == str(JobState.QUEUED))
    with reading(engine).connect() as connection:
        return connection.scalar(query) or 0


def check_sandbox() -> Finding:
    """Put the walls up that an inspector of files works behind."""
    try:
        report = sandbox_report()
    except SandboxError as error:
        return fault("sandbox", str(error), "docs/security.md says what each layer needs")
    if report.missing:
        missing = ", ".join(f"{name} ({reason})" for name, reason in report.missing.items())
        return warning(
            "sandbox", f"files are inspected without {missing}", "docs/security.md says more"
        )
    return ok("sandbox", f"all {len(report.active)} layers stand")


def _eviction(client: redis.Redis) -> str | None:
    """Return the policy by which a broker throws messages away, if it does."""
    try:
        found = cast(dict[str, Any], client.config_get("maxmemory*"))
    except redis.RedisError:
        return None  # a hosted one does not tell
    policy = str(found.get("maxmemory-policy", "noeviction"))
    is_bounded = str(found.get("maxmemory", "0")) != "0"
    return policy if is_bounded and policy != "noeviction" else None


def _without_password(error: Exception) -> str:
    """Return what the driver says; of a URL it names host and port alone."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
