"""The job record on both databases."""

from __future__ import annotations

import pytest

from worker.contract.database import open_database
from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore
from worker.contract.lease_watch import LeaseWatch
from worker.contract.outbox import Outbox
from worker.contract.request import ConvertRequest, Source

LEASE_SECONDS = 30.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'momentum.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def engine(database_url):
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine) -> JobStore:
    return JobStore(engine)


@pytest.fixture
def claims(engine) -> JobClaims:
    return JobClaims(engine, lease_seconds=LEASE_SECONDS)


class Watch(LeaseWatch):
    """A watch whose clock stands still, unless a test lets a lease's time pass."""

    def __init__(self, engine, *, max_attempts=3) -> None:
        self.now = 0.0
        super().__init__(
            engine,
            lease_seconds=LEASE_SECONDS,
            max_attempts=max_attempts,
            clock=lambda: self.now,
        )

    def end_leases(self) -> int:
        """Watch until every lease that nobody renews is over; return how many jobs changed."""
        changed = self.requeue_expired()
        self.now += LEASE_SECONDS
        return changed + self.requeue_expired()


@pytest.fixture
def watch(engine) -> Watch:
    return Watch(engine)


@pytest.fixture
def outbox(engine) -> Outbox:
    return Outbox(engine)


@pytest.fixture
def job(store):
    return store.submit(ConvertRequest(source=Source(zoo="digits_resnet26")), tenant="default")
