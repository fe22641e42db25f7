"""Finding, stopping, repeating and forgetting jobs, in the record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update

from tests.worker.contract.test_job_record import kinds
from worker.contract.database import database_now
from worker.contract.job import JobError, JobState, Upload
from worker.contract.job_claims import ClaimLostError
from worker.contract.job_store import (
    IdempotencyKey,
    JobNotFinishedError,
    KeyReusedError,
    Position,
    new_id,
)
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import events, jobs, uploads
from worker.contract.tables import outbox as messages

ZOO = Source(zoo="digits_resnet26")


def submit(store, name=None, tags=(), tenant="default", **options):
    return store.submit(ConvertRequest(source=ZOO, name=name, tags=tags), tenant=tenant, **options)


def upload() -> Upload:
    return Upload(
        id=new_id(), tenant="default", kind="checkpoint", blob_sha256="ab" * 32, num_bytes=1,
        facts={},
    )  # fmt: skip


def fail(claims, job) -> None:
    claims.fail(claims.claim(job.id, worker="w"), JobError(code="x", message="x"))


def ids(found) -> list[str]:
    return [job.id for job in found]


def test_jobs_are_found_newest_first_by_state_tag_and_text(store, claims):
    first = submit(store, "ResNet 100%", ("a", "b"))
    second = submit(store, "other", ("a",))
    third = submit(store)
    submit(store, "ResNet", ("a",), tenant="somebody")
    fail(claims, first)
    assert ids(store.find(tenant="default")) == [third.id, second.id, first.id]
    assert ids(store.find(tenant="default", states=[JobState.FAILED])) == [first.id]
    both = [JobState.FAILED, JobState.QUEUED]
    assert len(store.find(tenant="default", states=both)) == 3
    assert ids(store.find(tenant="default", tags=["a"])) == [second.id, first.id]
    assert ids(store.find(tenant="default", tags=["a", "b"])) == [first.id]
    assert ids(store.find(tenant="default", text="resnet")) == [first.id]
    assert ids(store.find(tenant="default", text="100%")) == [first.id]
    assert ids(store.find(tenant="default", text="0%0")) == []
    assert ids(store.find(tenant="default", text=third.id[:12].upper())) == [third.id]


def test_pages_neither_repeat_nor_miss_a_job_also_of_one_moment(engine, store):
    made = {submit(store).id for _ in range(7)}
    with engine.begin() as connection:
        connection.execute(update(jobs).values(created_at=1000.5))
    seen, before = [], None
    while page := store.find(tenant="default", before=before, limit=3):
        seen += ids(page)
        before = Position(page[-1].created_at, page[-1].id)
    assert len(seen) == 7
    assert set(seen) == made


def test_a_waiting_job_is_cancelled_at_once_and_never_starts(store, claims, job):
    cancelled = store.cancel(job.id, tenant="default")
    assert cancelled.state == JobState.CANCELLED
    assert cancelled.finished_at is not None
    assert claims.claim(job.id, worker="w") is None
    assert store.cancel(job.id, tenant="default") == cancelled
    assert kinds(store, job) == ["queued", "cancelled"]


def test_a_running_job_is_told_and_its_worker_ends_it(store, claims, job):
    claim = claims.claim(job.id, worker="w")
    assert not claims.is_cancel_requested(claim)
    for _ in range(2):
        told = store.cancel(job.id, tenant="default")
        assert (told.state, told.cancel_requested) == (JobState.RUNNING, True)
    assert claims.is_cancel_requested(claim)
    claims.cancel(claim)
    assert store.get(job.id, tenant="default").state == JobState.CANCELLED
    assert kinds(store, job) == ["queued", "started", "cancel_requested", "cancelled"]
    with pytest.raises(ClaimLostError):
        claims.succeed(claim, result={}, files=[])


def test_a_job_that_has_ended_cannot_be_cancelled(store, claims, job):
    fail(claims, job)
    before = store.get(job.id, tenant="default")
    assert store.cancel(job.id, tenant="default") == before


def test_nobody_elses_job_is_cancelled_repeated_or_forgotten(store, job):
    for act in (store.cancel, store.retry, store.delete):
        with pytest.raises(LookupError):
            act(job.id, tenant="somebody")
    assert store.get(job.id, tenant="default").state == JobState.QUEUED


@pytest.mark.parametrize("how", ["lost", "stopped"])
def test_a_cancelled_job_whose_worker_is_gone_is_not_run_again(store, claims, watch, job, how):
    claims.claim(job.id, worker="w")
    store.cancel(job.id, tenant="default")
    if how == "stopped":
        assert claims.hand_back("w") == 0
    else:
        assert watch.end_leases() == 1
        assert claims.claim(job.id, worker="v") is None
    assert store.get(job.id, tenant="default").state == JobState.CANCELLED
    assert kinds(store, job)[-1] == "cancelled"


def test_a_retry_is_a_new_job_with_the_same_request_and_files(store, claims):
    sent = upload()
    old = store.submit(
        ConvertRequest(name="n", tags=("t",), seed=3), tenant="default", checkpoint=sent
    )
    with pytest.raises(JobNotFinishedError):
        store.retry(old.id, tenant="default")
    fail(claims, old)
    new = store.retry(old.id, tenant="default")
    assert new.id != old.id
    assert (new.state, new.retry_of, new.attempt) == (JobState.QUEUED, old.id, 0)
    assert (new.request, new.checkpoint_id, new.name) == (old.request, sent.id, "n")
    assert ids(store.find(tenant="default", tags=["t"])) == [new.id, old.id]
    assert claims.claim(new.id, worker="w") is not None


def test_a_forgotten_job_leaves_nothing_but_what_a_retry_needs(engine, store, claims):
    sent = upload()
    old = store.submit(ConvertRequest(tags=("t",)), tenant="default", checkpoint=sent)
    with pytest.raises(JobNotFinishedError):
        store.delete(old.id, tenant="default")
    fail(claims, old)
    new = store.retry(old.id, tenant="default")
    store.delete(old.id, tenant="default")
    with pytest.raises(LookupError):
        store.get(old.id, tenant="default")
    assert store.events_of(old.id) == []
    assert store.upload(sent.id) == sent
    fail(claims, new)
    store.delete(new.id, tenant="default")
    with engine.connect() as connection:
        for table in (jobs, events, messages, uploads):
            assert connection.scalar(select(func.count()).select_from(table)) == 0


def test_the_same_key_gives_the_same_job_and_another_request_is_refused(store):
    key = IdempotencyKey("k", "0" * 64)
    job = submit(store, key=key)
    assert store.submitted(key, tenant="default") == job
    assert submit(store, key=key) == job
    assert len(store.find(tenant="default")) == 1
    with pytest.raises(KeyReusedError):
        submit(store, key=IdempotencyKey("k", "1" * 64))
    assert submit(store, tenant="somebody", key=key).id != job.id
    assert len(store.find(tenant="default")) == 1


def test_of_many_requests_with_a_key_at_once_one_makes_a_job(store):
    key = IdempotencyKey("k", "0" * 64)
    with ThreadPoolExecutor(8) as pool:
        made = {job.id for job in pool.map(lambda _: submit(store, key=key), range(24))}
    assert len(made) == 1
    assert ids(store.find(tenant="default")) == list(made)


def test_the_newest_events_of_many_jobs_are_asked_for_at_once(store, claims, job):
    other = submit(store)
    claims.claim(job.id, worker="w")
    found = store.revisions_of([job.id, other.id, new_id()])
    assert found == {job.id: 2, other.id: 1}


def test_a_time_is_the_databases(store, job, engine):
    store.cancel(job.id, tenant="default")
    with engine.connect() as connection:
        now = connection.scalar(select(database_now()))
    assert 0 <= now - store.get(job.id, tenant="default").finished_at < 5
