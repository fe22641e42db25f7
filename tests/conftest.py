"""Fixtures that tests of every package share: real data, real Redis, real PostgreSQL.

Each is required where `CI=true`; on a machine that lacks it, its tests are skipped and say why.
"""

from __future__ import annotations

import gc
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.object_store import ObjectStore

# The same examples on every machine, and no deadline for one of them, as where `CI` is set.
hypothesis.settings.load_profile("ci")

LONG_VARIABLE = "MOMENTUM_TEST_LONG"
"""Set, the tests that are marked `slow` run, too."""

ROOT = Path(__file__).resolve().parent.parent
REDIS_ADDRESS = ("127.0.0.1", 6379)
POSTGRES_ADDRESS = ("127.0.0.1", 5432)


def slow(value: Any) -> Any:
    """A value of a parameter with which a test is a long form."""
    return pytest.param(value, marks=pytest.mark.slow)


def shared_data_folder() -> Path | None:
    """Return the folder of real checkpoints and data beside the project, if it is there."""
    folder = Path(os.environ.get("MOMENTUM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return folder if (folder / "cifar10.npz").exists() else None


def absent(reason: str) -> None:
    """Skip on a user's machine; fail in CI, where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"required in CI: {reason}")
    pytest.skip(reason)


def _is_listening(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=2):
            return True
    except OSError:
        return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long forms to the commands that ask for them."""
    if os.environ.get(LONG_VARIABLE):
        return
    long = [item for item in items if item.get_closest_marker("slow")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """What a file leaves open is found out while it is its turn, not in the middle of another."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real checkpoints and data beside the project."""
    folder = shared_data_folder()
    if folder is None:
        absent("no shared data in ../shared/data; set MOMENTUM_SHARED_DATA")
    assert folder is not None
    return folder


@pytest.fixture
def redis_url() -> Iterator[str]:
    """URL of the machine's Redis, in a database that is emptied before and after."""
    if not _is_listening(REDIS_ADDRESS):
        absent("no Redis on 127.0.0.1:6379")
    import redis

    number = _lock_free_redis_database()
    url = f"redis://{REDIS_ADDRESS[0]}:{REDIS_ADDRESS[1]}/{number}"
    with redis.Redis.from_url(url) as client:
        yield url
        client.flushdb()


def _lock_free_redis_database() -> int:
    """Take a database of this Redis that nobody uses: test runs may share the server."""
    import redis

    for number in range(1, 16):
        with redis.Redis(*REDIS_ADDRESS, db=number) as client:
            empty = client.dbsize() == 0
            if empty and client.set("momentum-test-lock", os.getpid(), nx=True):
                return number
    pytest.fail("databases 1 to 15 of the Redis on 127.0.0.1:6379 are in use; empty one")


@contextmanager
def postgres_schema() -> Iterator[str]:
    """Give the SQLAlchemy URL of a fresh schema in the machine's PostgreSQL; it ends with it."""
    import psycopg

    schema = f"momentum_{uuid.uuid4().hex[:12]}"
    dsn = "host=127.0.0.1 port=5432 dbname=test user=" + os.environ.get("PGUSER", "postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"')
        user = connection.info.user
        yield f"postgresql+psycopg://{user}@127.0.0.1:5432/test?options=-csearch_path%3D{schema}"
        connection.execute(f'DROP SCHEMA "{schema}" CASCADE')


@pytest.fixture(scope="session")
def object_store(tmp_path_factory) -> Iterator[ObjectStore]:
    """An S3 server with a bucket, which several tests share."""
    store = ObjectStore(tmp_path_factory.mktemp("object_store"))
    try:
        store.start()
        yield store
    finally:
        store.stop()


@pytest.fixture(scope="session")
def postgres() -> None:
    """PostgreSQL is there."""
    if not _is_listening(POSTGRES_ADDRESS):
        absent("no PostgreSQL on 127.0.0.1:5432")


@pytest.fixture
def postgres_url(postgres) -> Iterator[str]:
    """SQLAlchemy URL of a fresh schema in the machine's PostgreSQL, dropped afterwards."""
    with postgres_schema() as url:
        yield url
