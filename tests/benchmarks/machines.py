"""Many jobs on two API processes and four workers: each is done once, and little time is lost.

What a job costs beside its work: the time that its worker, with jobs waiting, did nothing before
it, and the time from its start to its end that no stage of it took.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select

from tests.benchmarks.findings import Claim
from tests.conftest import postgres_schema
from tests.faults.broker import redis_server
from tests.faults.stack import Stack, small_job, stack, wait_until
from worker.contract.database import create_database_engine
from worker.contract.tables import events, jobs

NUM_JOBS, NUM_WORKERS, MAX_SECONDS = 200, 4, 1800.0
JOB = small_job(max_steps=3, batch_size=64)


def run() -> Iterator[Claim]:
    """Do it on this machine's PostgreSQL, with a Redis of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres_schema() as url,
        stack(
            Path(folder) / "stack",
            own_broker=True,
            broker_server=redis_server(),
            MOMENTUM_DATABASE_URL=url,
            MOMENTUM_LEASE_SECONDS="15",
        ) as service,
        service.another_api() as other,
    ):
        for _ in range(NUM_WORKERS - 1):
            service.add_worker()
        wait_until(lambda: _num_workers(service) == NUM_WORKERS, "no workers", seconds=120)
        began = time.monotonic()
        for number in range(NUM_JOBS):
            client = (service.client, other)[number % 2]
            answer = client.post("/convert", json=JOB | {"name": f"job {number}"})
            assert answer.status_code == 202, answer.text
            service.locations.append(str(answer.headers["Location"]))
        wait_until(lambda: _num_ended(url) == NUM_JOBS, "not all end", seconds=MAX_SECONDS)
        took = time.monotonic() - began
        service.check()
        yield from _claims(url, took, service)


def _claims(url: str, took: float, service: Stack) -> Iterator[Claim]:
    engine = create_database_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.started_at)).all()
        starts = connection.scalars(select(events.c.job_id).where(events.c.kind == "started")).all()
    engine.dispose()
    overheads, idle, beside = [], [], []
    free_since: dict[str, float] = {}
    for row in rows:
        report = service.client.get(f"/jobs/{row.id}/report").json()
        work = sum(report["seconds"].values())
        own = row.finished_at - row.started_at - work
        # A worker's first job waits for its start.
        if row.worker in free_since:
            gap = row.started_at - free_since[row.worker]
            overheads.append(gap + own)
            idle.append(gap)
            beside.append(own)
        free_since[row.worker] = row.finished_at
    shares = sorted(sum(row.worker == name for row in rows) for name in free_since)
    sys.stdout.write(
        f"  {NUM_JOBS} jobs in {took:.0f} s, by worker {shares}; beside the work: median "
        f"{statistics.median(overheads):.2f} s, p99 {sorted(overheads)[-3]:.2f} s (idle "
        f"{statistics.median(idle):.2f} s, in the job {statistics.median(beside):.2f} s)\n"
    )
    yield Claim("jobs that did not succeed", sum(row.state != "succeeded" for row in rows), 0)
    yield Claim("starts beyond one for each job", len(starts) - len(set(starts)), 0)
    few = NUM_WORKERS - sum(share * NUM_WORKERS * 2 >= NUM_JOBS for share in shares)
    yield Claim("workers that got less than half of their share", few, 0)
    yield Claim("median seconds of a job beside its work", statistics.median(overheads), 1.5)


def _num_workers(service: Stack) -> int:
    found = service.client.get("/workers").json()["workers"]
    return sum("momentum-convert" in one["queues"] and one["device"] is not None for one in found)


def _num_ended(url: str) -> int:
    engine = create_database_engine(url)
    with engine.connect() as connection:
        found = connection.execute(select(jobs.c.id).where(jobs.c.finished_at.is_not(None))).all()
    engine.dispose()
    time.sleep(1)
    return len(found)
