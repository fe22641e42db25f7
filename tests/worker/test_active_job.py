"""The heartbeat: a living worker keeps its job, a silent one loses it, telemetry kills nothing."""

from __future__ import annotations

import time

import pytest
from sqlalchemy.exc import OperationalError

from worker.active_job import ActiveJob
from worker.contract.job import Stage
from worker.contract.job_claims import ClaimLostError, JobClaims
from worker.contract.request import ConvertRequest, Source


@pytest.fixture
def job(store):
    return store.submit(ConvertRequest(source=Source(zoo="digits_resnet26")), tenant="default")


@pytest.fixture
def short(services) -> JobClaims:
    return JobClaims(services.claims.engine, lease_seconds=0.5)


def test_a_lease_is_kept_longer_than_it_lasts(short, outbox, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        time.sleep(1.2)
        active.check()
        assert outbox.requeue_expired(max_attempts=3) == 0
    time.sleep(0.7)
    assert outbox.requeue_expired(max_attempts=3) == 1


def test_a_job_that_went_to_somebody_else_is_noticed(short, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.LOADING)
        short.hand_back("a")
        with pytest.raises(ClaimLostError):
            active.enter(Stage.PLANNING)
        time.sleep(0.3)
        with pytest.raises(ClaimLostError):
            active.check()


def test_a_database_that_is_away_ends_a_job_only_with_its_lease(short, job, monkeypatch):
    def away(*_, **__):
        raise OperationalError("UPDATE", {}, Exception("away"))

    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.LOADING)
        for name in ("enter_stage", "record_progress", "renew"):
            monkeypatch.setattr(JobClaims, name, away)
        active.enter(Stage.PLANNING)
        active.advance(0.5)
        active.check()
        time.sleep(0.9)
        with pytest.raises(ClaimLostError):
            active.check()


def test_progress_never_falls_and_is_written_once_a_second(short, store, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        seen = []
        for stage in (
            Stage.LOADING,
            Stage.EVALUATING,
            Stage.REFINING,
            Stage.EVALUATING,
            Stage.PACKAGING,
        ):
            active.enter(stage)
            seen.append(store.get(job.id, tenant="default").progress)
        assert seen == sorted(seen)
        before = store.get(job.id, tenant="default").revision
        for step in range(50):
            active.advance(step / 50, step=step)
        assert store.get(job.id, tenant="default").revision - before <= 2
