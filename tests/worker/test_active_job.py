"""The heartbeat: a living worker keeps its job, a silent one loses it, telemetry kills nothing."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch
from sqlalchemy.exc import OperationalError

from worker import active_job
from worker.active_job import ActiveJob
from worker.contract.job import JobState, Stage
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims
from worker.contract.lease_watch import LeaseWatch
from worker.contract.request import ConvertRequest, Source


@pytest.fixture
def job(store):
    return store.submit(ConvertRequest(source=Source(zoo="digits_resnet26")), tenant="default")


@pytest.fixture
def short(services) -> JobClaims:
    return JobClaims(services.claims.engine, lease_seconds=0.5)


def test_a_lease_is_kept_longer_than_it_lasts(services, job):
    claims = JobClaims(services.claims.engine, lease_seconds=3)
    watch = LeaseWatch(claims.engine, lease_seconds=3, max_attempts=3)
    with ActiveJob(claims, claims.claim(job.id, worker="a"), lease_seconds=3) as active:
        for _ in range(60):
            assert watch.requeue_expired() == 0
            time.sleep(0.1)
        active.check()
    watch.requeue_expired()
    time.sleep(4)
    assert watch.requeue_expired() == 1


def test_a_job_that_went_to_somebody_else_is_noticed(short, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.LOADING)
        short.hand_back("a")
        with pytest.raises(ClaimLostError):
            active.enter(Stage.PLANNING)
        with pytest.raises(ClaimLostError):
            _work_silently("sleep", until=time.monotonic() + 60)


def test_a_database_that_is_away_ends_a_job_only_with_its_lease(services, job, monkeypatch):
    claims = JobClaims(services.claims.engine, lease_seconds=3)

    def away(*_, **__):
        raise OperationalError("UPDATE", {}, Exception("away"))

    with ActiveJob(claims, claims.claim(job.id, worker="a"), lease_seconds=3) as active:
        active.enter(Stage.LOADING)
        for name in ("enter_stage", "record_progress", "renew"):
            monkeypatch.setattr(JobClaims, name, away)
        active.enter(Stage.PLANNING)
        active.advance(0.5)
        active.check()
        with pytest.raises(ClaimLostError):
            _work_silently("sleep", until=time.monotonic() + 60)


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


def test_a_cancelled_job_stops_at_its_next_step(short, store, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.LOADING)
        store.cancel(job.id, tenant="default")
        with pytest.raises(JobCancelledError):
            _advance_until_stopped(active)


@pytest.mark.parametrize("work", ["sleep", "torch"])
def test_a_stage_that_does_not_look_is_interrupted(short, store, job, work):
    """In the main thread, where a worker's child does its jobs."""
    started = time.monotonic()
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.MEASURING)
        store.cancel(job.id, tenant="default")
        with pytest.raises(JobCancelledError):
            _work_silently(work, until=started + 60)
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


@pytest.mark.parametrize("told", ["by a check", "by the record"])
def test_a_job_that_was_told_to_stop_saves_its_state_undisturbed(short, job, told):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.REFINING)
        short.hand_back("a")
        with pytest.raises(ClaimLostError):
            _advance_once_told(active, told)
        for _ in range(100):  # of a slow disk
            time.sleep(0.01)


def test_a_job_that_takes_no_notice_is_interrupted_again(short, job, monkeypatch):
    monkeypatch.setattr(active_job, "PATIENCE_SECONDS", 0.5)
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5) as active:
        active.enter(Stage.REFINING)
        short.hand_back("a")
        with pytest.raises(ClaimLostError):
            active.advance(0.5)
        with pytest.raises(ClaimLostError):
            _work_silently("sleep", until=time.monotonic() + 20)


def test_a_cancelled_job_deep_in_a_library_ends_with_its_process(short, store, job, monkeypatch):
    monkeypatch.setattr(active_job, "DEAF_SECONDS", 0.5)
    ended = threading.Event()
    keeping = ActiveJob(
        short, short.claim(job.id, worker="a"), lease_seconds=0.5, end_process=ended.set
    )
    # In a thread of its own nothing can interrupt it: as deaf as C.
    monkeypatch.setattr(keeping, "_interrupt", lambda *_: None)
    with keeping as active:
        active.enter(Stage.MEASURING)
        store.cancel(job.id, tenant="default")
        assert ended.wait(60)
    assert store.get(job.id, tenant="default").state == JobState.CANCELLED


def test_a_job_that_hangs_ends_with_its_process(short, store, job):
    ended = threading.Event()
    keeping = ActiveJob(
        short,
        short.claim(job.id, worker="a"),
        lease_seconds=0.5,
        stall_seconds=3,
        end_process=ended.set,
    )
    with keeping as active:
        for _ in range(40):
            active.check()
            time.sleep(0.1)
        assert not ended.is_set(), "it goes on"
        active.enter(Stage.MEASURING)
        assert ended.wait(60)
    assert "stalled" in [event.kind for event in store.events_of(job.id)]


def _advance_once_told(active: ActiveJob, told: str) -> None:
    while told == "by a check" and active._stop is None:
        time.sleep(0.001)
    active.advance(0.5)


def _advance_until_stopped(active: ActiveJob) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        active.advance(0.5)
        time.sleep(0.01)


def _work_silently(work: str, *, until: float) -> None:
    x = torch.randn(64, 64)
    while time.monotonic() < until:
        if work == "sleep":
            time.sleep(0.01)
        else:
            x = (x @ x).tanh()


def test_what_comes_after_a_job_is_not_interrupted(short, store, job):
    with ActiveJob(short, short.claim(job.id, worker="a"), lease_seconds=0.5):
        store.cancel(job.id, tenant="default")
    for _ in range(30):
        time.sleep(0.01)
