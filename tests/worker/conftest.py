"""A worker's parts on a record and a store of their own."""

from __future__ import annotations

import pytest
import torch

from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore
from worker.contract.outbox import Outbox
from worker.contract.settings import Settings
from worker.run_job import Services, create_services


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Compute with one thread: two gain nothing on networks this small, and need both cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        zoo_base_url="http://127.0.0.1:9/models",
        device="cpu",
        lease_seconds=5,
    )


@pytest.fixture
def services(settings) -> Services:
    return create_services(settings, worker="test:1")


@pytest.fixture
def store(services) -> JobStore:
    return JobStore(services.claims.engine)


@pytest.fixture
def outbox(services) -> Outbox:
    return Outbox(services.claims.engine)


@pytest.fixture
def claims(services) -> JobClaims:
    return services.claims
