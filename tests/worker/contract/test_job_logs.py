"""The lines of jobs' logs in the record, on both databases."""

from __future__ import annotations

import logging
import threading

import pytest
from sqlalchemy.exc import IntegrityError

from worker.contract import job_logs
from worker.contract.job_logs import JobLogs, Said

INFO, WARNING = logging.INFO, logging.WARNING


@pytest.fixture
def logs(engine) -> JobLogs:
    return JobLogs(engine)


def said(message: str = "x", *, level: int = INFO, seconds_ago: float = 0.0) -> Said:
    return Said(seconds_ago=seconds_ago, level=level, logger="worker.x", message=message)


def test_lines_are_numbered_on_through_all_attempts_and_read_page_by_page(logs, job):
    logs.append(job.id, [said("one"), said("two", level=WARNING)], attempt=1)
    logs.append(job.id, [said("three")], attempt=2)
    found = logs.lines_of(job.id)
    assert [(one.number, one.message, one.attempt) for one in found] == [
        (1, "one", 1),
        (2, "two", 1),
        (3, "three", 2),
    ]
    assert [one.number for one in logs.lines_of(job.id, after=1, limit=1)] == [2]
    assert [one.number for one in logs.lines_of(job.id, level=WARNING)] == [2]


def test_a_line_has_the_time_at_which_it_was_said(logs, job):
    logs.append(job.id, [said(seconds_ago=60), said()], attempt=1)
    first, second = logs.lines_of(job.id)
    assert second.at - first.at == pytest.approx(60)


@pytest.mark.parametrize("limit", ["MAX_LINES", "MAX_CHARACTERS"])
def test_a_full_log_takes_only_warnings_and_not_without_end(logs, job, monkeypatch, limit):
    monkeypatch.setattr(job_logs, limit, 10)
    monkeypatch.setattr(job_logs, limit.replace("MAX", "RESERVED"), 5)
    assert logs.append(job.id, [said() for _ in range(12)], attempt=1) == 2
    assert logs.append(job.id, [said(), said(level=WARNING)], attempt=1) == 1
    assert logs.append(job.id, [said(level=WARNING) for _ in range(9)], attempt=2) == 5
    assert [one.number for one in logs.lines_of(job.id)] == list(range(1, 16))


def test_a_deleted_jobs_log_is_gone_and_takes_no_line(logs, store, job):
    logs.append(job.id, [said()], attempt=1)
    store.cancel(job.id, tenant="default")
    store.delete(job.id, tenant="default")
    assert (logs.lines_of(job.id), logs.has_job(job.id)) == ([], False)
    with pytest.raises(IntegrityError):
        logs.append(job.id, [said()], attempt=1)


def test_two_who_write_at_once_lose_no_line_that_they_write_again(logs, job):
    """A late worker and the one that has the job now."""

    def write(attempt: int) -> None:
        for _ in range(20):
            while True:
                try:
                    logs.append(job.id, [said()], attempt=attempt)
                    break
                except IntegrityError:
                    continue

    threads = [threading.Thread(target=write, args=(each,)) for each in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.number for one in logs.lines_of(job.id)] == list(range(1, 41))
