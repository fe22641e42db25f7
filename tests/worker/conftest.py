"""A worker's parts on a record and a store of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momentum_core.config import MeasurementConfig, RefinementConfig
from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore
from worker.contract.outbox import Outbox
from worker.contract.request import ConvertRequest, Source
from worker.contract.settings import Settings
from worker.memory_command import ReportOrder
from worker.memory_command import report as write_report_of
from worker.run_job import Services, create_services, run_job


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


@pytest.fixture(scope="session")
def resnet50_folder(tmp_path_factory) -> Path:
    """The report of a ResNet-50 with random weights, as `momentum report` writes it."""
    folder = tmp_path_factory.mktemp("resnet50")
    order = ReportOrder(
        model="resnet50",
        gamma=0.5,
        batch_size=2,
        image_size=64,
        repeats=1,
        optimizer="adam",
        rivals=False,
        device="cpu",
        output=str(folder),
    )
    write_report_of(order)
    return folder


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory) -> Path:
    """The report, its page and its table, as a whole job on the shipped network left them."""
    folder = tmp_path_factory.mktemp("report")
    data = tmp_path_factory.mktemp("data")
    services = create_services(Settings(data_dir=data, device="cpu"), worker="test:1")
    request = ConvertRequest(
        source=Source(zoo="digits_resnet26"),
        measurement=MeasurementConfig(batch_size=16, repeats=2),
        refinement=RefinementConfig(
            max_steps=8, batch_size=64, calibrate=False, goal=None, evaluation_interval=4
        ),
    )
    job = JobStore(services.claims.engine).submit(request, tenant="default")
    run_job(job.id, services)
    for one in JobStore(services.claims.engine).artifacts_of(job.id):
        stored = services.workplace.files.path_of(one.sha256)
        (folder / one.name).write_bytes(stored.read_bytes())
    return folder


@pytest.fixture
def run(services, store):
    def run(request: ConvertRequest, *, using: Services | None = None, **uploads):
        job = store.submit(request, tenant="default", **uploads)
        run_job(job.id, using or services)
        return store.get(job.id, tenant="default")

    return run


@pytest.fixture
def file_of(services, store):
    def find(job, name):
        [digest] = [one.sha256 for one in store.artifacts_of(job.id) if one.name == name]
        return services.workplace.files.path_of(digest)

    return find
