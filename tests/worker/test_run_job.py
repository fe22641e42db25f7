"""One job in this process, with the real record, store, intake and networks."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from sqlalchemy.exc import OperationalError

from momentum_core.config import (
    MeasurementConfig,
)
from momentum_core.errors import DataError
from tests.worker.digits import DIGITS
from worker import conversion_job, packaging
from worker.active_job import ActiveJob
from worker.contract.job import JobState, Upload
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims
from worker.contract.job_record import new_id
from worker.contract.request import ConvertRequest, Source
from worker.contract.zoo import find_zoo_entry
from worker.run_job import run_job


def test_the_same_request_gives_the_same_weights(run, store):
    first, second = run(DIGITS), run(DIGITS)
    other = run(replace(DIGITS, seed=1))

    def weights(job):
        digests = {one.name: one.sha256 for one in store.artifacts_of(job.id)}
        return digests["model.safetensors"], digests["original.safetensors"]

    assert weights(first) == weights(second)
    assert not set(weights(first)) & set(weights(other))


def test_a_zoo_entry_that_is_not_at_hand_fails_with_the_remedy(run, store):
    job = run(replace(DIGITS, source=Source(zoo="resnet18")))
    assert (job.state, job.error.code) == (JobState.FAILED, "zoo_unavailable")
    assert "resnet18-f37072fd.pth" in job.error.message
    assert store.artifacts_of(job.id) == []


def test_a_lost_upload_fails_with_its_code(run):
    upload = Upload(
        id=new_id(),
        tenant="default",
        kind="checkpoint",
        blob_sha256="0" * 64,
        num_bytes=1,
        facts={},
    )
    job = run(ConvertRequest(), checkpoint=upload)
    assert (job.state, job.error.code) == (JobState.FAILED, "stored_file_damaged")


def test_a_bug_fails_the_job_and_tells_only_its_kind(run, monkeypatch, caplog):
    def broken(*_, **__):
        raise KeyError("a secret path")

    monkeypatch.setattr(conversion_job, "plan_architecture", broken)
    job = run(DIGITS)
    assert (job.state, job.error.code) == (JobState.FAILED, "internal_error")
    assert "secret" not in job.error.message
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        # What torch raises on a CPU; asking for too much for real would endanger the machine.
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("could not create a memory object"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("lib.so: failed to map segment from shared object"),
    ],
)
def test_a_too_large_batch_is_called_out_of_memory(run, monkeypatch, error):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(conversion_job, "measure_step", exhausted)
    job = run(DIGITS)
    assert job.error.code == "out_of_memory"
    assert "measurement.batch_size" in job.error.message


def test_a_job_taken_away_publishes_nothing_and_goes_on_with_the_same_bits(
    run, services, store, claims, monkeypatch, file_of
):
    expected = run(DIGITS)
    job = store.submit(DIGITS, tenant="default")
    steps = []

    def advance(active, share, **figures):
        steps.append(figures.get("step"))
        if figures.get("step") == 3:
            claims.hand_back(services.worker)
            active._stop = ClaimLostError
        return original_advance(active, share, **figures)

    original_advance = ActiveJob.advance
    monkeypatch.setattr(ActiveJob, "advance", advance)
    run_job(job.id, services)
    assert steps[-1] == 3
    found = store.get(job.id, tenant="default")
    assert (found.state, found.attempt) == (JobState.QUEUED, 0)
    assert store.artifacts_of(job.id) == []
    assert services.workplace.files.unfinished_jobs() == [job.id]

    steps.clear()
    run_job(job.id, services)
    assert [step for step in steps if step is not None] == list(range(4, 13))
    assert store.get(job.id, tenant="default").state == JobState.SUCCEEDED
    weights = [file_of(one, "model.safetensors") for one in (expected, job)]
    assert weights[0] == weights[1], "named by their SHA-256"
    assert services.workplace.files.unfinished_jobs() == []


@pytest.mark.parametrize("error", [JobCancelledError, DataError("no"), KeyError("bug")])
def test_a_job_that_has_ended_leaves_no_state_to_go_on_from(services, store, monkeypatch, error):
    job = store.submit(DIGITS, tenant="default")

    def advance(active, share, **figures):
        if figures.get("step") == 3:
            raise error

    monkeypatch.setattr(ActiveJob, "advance", advance)
    run_job(job.id, services)
    assert store.get(job.id, tenant="default").state.is_final
    assert services.workplace.files.unfinished_jobs() == []


def test_a_message_too_many_changes_nothing(run, services, store):
    job = run(DIGITS)
    run_job(job.id, services)
    run_job("0" * 32, services)
    assert store.get(job.id, tenant="default") == job


def test_nothing_temporary_is_left(run, settings):
    run(DIGITS)
    run(replace(DIGITS, source=Source(zoo="resnet18")))
    assert list((settings.data_folder / "tmp").iterdir()) == []


def test_a_batch_that_cannot_be_trained_on_is_the_users_to_mend(run, zoo_of_resnet18):
    request = replace(
        zoo_of_resnet18, measurement=MeasurementConfig(batch_size=1, image_size=8, repeats=1)
    )
    job = run(request)
    assert (job.state, job.error.code) == (JobState.FAILED, "measurement_failed")
    assert "try another batch_size or image_size" in job.error.message


@pytest.fixture
def zoo_of_resnet18(settings, monkeypatch):
    """A zoo entry `resnet18` with random weights, put into the folder by hand."""
    from torchvision import models

    from worker.contract import zoo

    settings.zoo_folder.mkdir(parents=True)
    made = settings.zoo_folder / "made"
    torch.save(models.resnet18().state_dict(), made)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    entry = replace(
        find_zoo_entry("resnet18"), sha256_prefix=digest[:8], file_name=f"r-{digest[:8]}.pth"
    )
    made.rename(settings.zoo_folder / entry.file_name)
    monkeypatch.setattr(zoo, "ZOO", (entry,))
    return ConvertRequest(source=Source(zoo="resnet18"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_job_that_finds_the_disk_full_waits_for_space(run, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(packaging, "save_weights", full)
    job = run(DIGITS)
    assert (job.state, job.waiting_for, job.attempt) == (JobState.QUEUED, "space", 0)
    assert job.error is None


def test_a_record_that_fails_to_answer_leaves_the_job_to_its_lease(
    services, store, claims, monkeypatch
):
    job = store.submit(DIGITS, tenant="default")

    def away(*_, **__):
        raise OperationalError("UPDATE", {}, Exception("away"))

    monkeypatch.setattr(JobClaims, "succeed", away)
    run_job(job.id, services)
    found = store.get(job.id, tenant="default")
    assert (found.state, found.error) == (JobState.RUNNING, None)
