"""What a job's log keeps, and what it does not."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
from sqlalchemy.exc import OperationalError

from tests.worker.digits import DIGITS
from worker import job_log
from worker.contract.request import Source
from worker.job_log import JobLog


@pytest.fixture
def claim(store, claims):
    return claims.claim(store.submit(DIGITS, tenant="default").id, worker="w")


def messages(services, job_id: str) -> list[str]:
    return [one.message for one in services.logs.lines_of(job_id)]


def test_a_job_tells_its_stages_and_how_it_ended(run, services):
    job = run(DIGITS)
    lines = services.logs.lines_of(job.id)
    said = "\n".join(one.message for one in lines)
    assert "attempt 1, on cpu" in said
    assert "stage measuring" in said
    assert f"job {job.id} succeeded" in said
    assert {one.logger.partition(".")[0] for one in lines} <= {"worker", "momentum_core"}


def test_a_job_that_fails_says_why_without_a_traceback(run, services):
    job = run(replace(DIGITS, source=Source(zoo="resnet18")))
    *_, last = services.logs.lines_of(job.id)
    assert last.level == logging.ERROR
    assert "zoo_unavailable: " in last.message
    assert "Traceback" not in last.message
    assert "\n" not in last.message


def test_only_what_this_package_says_of_the_job_is_kept(services, claim):
    with JobLog(services.logs, claim):
        logging.getLogger("worker.run_job").info("kept %d", 1)
        logging.getLogger("worker.run_job").debug("too much")
        logging.getLogger("worker.tasks").warning("the database at db.example.org is away")
        logging.getLogger("httpx").error("GET https://token@example.org")
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logging.getLogger("momentum_core.x").exception("failed")
    logging.getLogger("worker.run_job").warning("of the next job")
    assert messages(services, claim.job_id) == ["kept 1", "failed"]


def test_what_a_terminal_would_obey_is_taken_out_and_long_lines_are_cut(services, claim):
    with JobLog(services.logs, claim):
        logging.getLogger("worker.x").info("a\x1b[2Jb\0c\nd" + "e" * 10_000)
    [line] = messages(services, claim.job_id)
    assert line.startswith("a\ufffd[2Jb\ufffdc\nde")
    assert len(line) == 4000


def test_lines_wait_for_a_record_that_does_not_answer(services, claim, monkeypatch):
    append, calls = services.logs.append, []

    def fails_at_first(*args, **kwargs) -> int:
        calls.append(args)
        if len(calls) < 3:
            raise OperationalError("x", {}, Exception())
        return append(*args, **kwargs)

    monkeypatch.setattr(services.logs, "append", fails_at_first)
    monkeypatch.setattr(job_log, "WRITE_SECONDS", 0.01)
    with JobLog(services.logs, claim):
        logging.getLogger("worker.x").info("one")
        while len(calls) < 4:
            logging.getLogger("worker.x").info("more")
    assert messages(services, claim.job_id)[0] == "one"


def test_a_full_log_says_so_once(services, claim, monkeypatch):
    monkeypatch.setattr("worker.contract.job_logs.MAX_LINES", 3)
    monkeypatch.setattr(job_log, "WRITE_SECONDS", 0.01)
    with JobLog(services.logs, claim) as log:
        until = time.monotonic() + 60
        while not log._is_full and time.monotonic() < until:
            logging.getLogger("worker.x").info("line")
            log._ended.wait(0.002)
        for _ in range(20):
            logging.getLogger("worker.x").info("line")
            log._ended.wait(0.002)
    found = messages(services, claim.job_id)
    assert found == ["line"] * 3 + ["the log is full: only warnings follow"]


def test_a_log_never_harms_its_job(services, store, claims, claim):
    with JobLog(services.logs, claim):
        claims.cancel(claim)
        store.delete(claim.job_id, tenant="default")
        logging.getLogger("worker.x").info("of nobody")
    assert messages(services, claim.job_id) == []
