"""How many jobs have ended, while they are forgotten, on both databases."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import update

from worker.contract.ended_jobs import count_ended, forget_ended_job
from worker.contract.job import JobState
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import jobs


@pytest.fixture
def ended(store, claims):
    """Jobs that have succeeded."""
    request = ConvertRequest(source=Source(zoo="digits_resnet26"))
    ids = [store.submit(request, tenant="default").id for _ in range(5)]
    for job_id in ids:
        claims.succeed(claims.claim(job_id, worker="w"), result={}, files=[])
    return ids


def counted(engine) -> dict[JobState, int]:
    with engine.connect() as connection:
        return count_ended(connection)


def test_a_job_that_many_forget_at_once_counts_once(engine, ended):
    forgotten = []

    def forget() -> None:
        for job_id in ended:
            with engine.begin() as connection:
                forgotten.append(forget_ended_job(connection, job_id))

    threads = [threading.Thread(target=forget) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(forgotten) == [False] * 25 + [True] * 5
    assert counted(engine) == {
        JobState.SUCCEEDED: 5,
        JobState.FAILED: 0,
        JobState.CANCELLED: 0,
    }


def test_a_job_that_ends_while_somebody_forgets_it_counts(engine, job):
    forgotten = []

    def forget() -> None:
        with engine.begin() as connection:
            forgotten.append(forget_ended_job(connection, job.id))

    thread = threading.Thread(target=forget)
    with engine.begin() as connection:
        ended = {"state": JobState.FAILED, "finished_at": 1.0}
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(ended))
        thread.start()
        time.sleep(0.5)  # it waits for this transaction by now
    thread.join()
    assert forgotten == [True]
    assert counted(engine)[JobState.FAILED] == 1


def test_the_number_never_falls_while_jobs_are_forgotten(engine, ended):
    seen = [counted(engine)[JobState.SUCCEEDED]]
    for job_id in ended:
        with engine.begin() as connection:
            forget_ended_job(connection, job_id)
        seen.append(counted(engine)[JobState.SUCCEEDED])
    assert seen == [5] * 6


def test_what_is_not_forgotten_in_the_end_is_not_counted_twice(engine, ended):
    connection = engine.connect()
    transaction = connection.begin()
    assert forget_ended_job(connection, ended[0])
    transaction.rollback()
    connection.close()
    assert counted(engine)[JobState.SUCCEEDED] == 5


def test_a_job_that_has_not_ended_stays_and_does_not_count(engine, store, job):
    with engine.begin() as connection:
        assert not forget_ended_job(connection, job.id)
        assert not forget_ended_job(connection, "0" * 32)
    assert set(counted(engine).values()) == {0}
    assert store.get(job.id, tenant="default").state == JobState.QUEUED
