"""Where the record breaks: a million jobs, many claimers at once, many workers that say they live.

On a PostgreSQL server of the benchmark's own, as it comes, but for the number of connections; on
the same machine, which has to do for everybody's work. SQLite beside it where it has a chance.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Engine, text

from tests.benchmarks.findings import Claim
from tests.postgres_server import PostgresServer, find_programs
from worker.contract.database import open_database
from worker.contract.job import JobState
from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore, Position
from worker.contract.lease_watch import LeaseWatch
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.outbox import Outbox
from worker.contract.queue_store import QueueStore
from worker.contract.request import ConvertRequest, Source
from worker.contract.worker_store import WorkerStore

NUM_ROWS = 1_000_000
NUM_QUEUED, NUM_RUNNING, NUM_TENANTS = 10_000, 200, 100
REPEATS = 200
CLAIMERS, CLAIM_PROCESSES = 200, 4
WORK_SECONDS, CONTENTION_SECONDS = 4.0, 30.0
"""Claimers that work for this long on average: fifty claims a second of 200 workers."""
WARM_SECONDS = 8.0
BEAT_SECONDS = 10.0

_REQUEST = ConvertRequest(source=Source(zoo="digits_resnet26"))


def run() -> Iterator[Claim]:
    """Measure; PostgreSQL's part only where its programs are."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield from _large("SQLite", f"sqlite:///{folder / 'momentum.db'}")
        if find_programs() is None:
            _say("  no PostgreSQL programs: its part is left out\n")
            return
        server = PostgresServer()
        stack.callback(server.remove)
        server.start(max_connections="400")
        yield from _large("PostgreSQL", server.url)
        yield from _contention(server.url)
        yield from _beats(server.url)


def _large(kind: str, url: str) -> Iterator[Claim]:
    engine = open_database(url)
    began = time.monotonic()
    _fill(engine)
    _say(f"  {kind}: {NUM_ROWS:,} jobs recorded in {time.monotonic() - began:.0f} s\n")
    store, claims = JobStore(engine), JobClaims(engine, lease_seconds=3600)
    tenant = "tenant-7"
    page = store.find(tenant=tenant)
    deep = Position(page[-1].created_at - NUM_ROWS / 2, page[-1].id)
    watch = LeaseWatch(engine, lease_seconds=3600, max_attempts=3)
    outbox = Outbox(engine)
    waiting = store.find(tenant=tenant, states=[JobState.QUEUED], limit=1)[0].id
    actions: dict[str, tuple[Callable[[], object], float]] = {
        "list, first page": (lambda: store.find(tenant=tenant), 0.05),
        "list, far behind": (lambda: store.find(tenant=tenant, before=deep), 0.05),
        "list by state": (lambda: store.find(tenant=tenant, states=[JobState.FAILED]), 0.05),
        "queues, counted": (QueueStore(engine).all, 0.25),
        "claim": (lambda: claims.claim(waiting, worker="w"), 0.1),
        "submit": (lambda: store.submit(_REQUEST, tenant=tenant), 0.1),
        "sweep of leases": (watch.requeue_expired, 0.25),
        "sweep of messages": (
            lambda: outbox.announce_again(num_at_broker=lambda _: 10**9, older_than_seconds=5),
            0.25,
        ),
    }
    for name, (action, bound) in actions.items():
        seconds = _times(action, REPEATS)
        _say(
            f"  {kind}, {name}: median {1000 * statistics.median(seconds):.1f} ms, "
            f"p99 {1000 * _p99(seconds):.1f} ms\n"
        )
        yield Claim(
            f"{NUM_ROWS:,} jobs on {kind}, {name}: p99 over {1000 * bound:.0f} ms",
            _p99(seconds) / bound,
            1.0,
        )
    engine.dispose()


def _fill(engine: Engine) -> None:
    """Record jobs of many tenants, nearly all of them ended, with the last ones waiting."""
    JobStore(engine).submit(_REQUEST, tenant="template")
    numbers, new_id = (
        ("generate_series(1, :num_rows) AS rows (n)", "md5(n::text)")
        if engine.dialect.name == "postgresql"
        else (
            "(WITH RECURSIVE rows (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM rows "
            "WHERE n < :num_rows) SELECT n FROM rows) AS rows",
            "lower(hex(randomblob(16)))",
        )
    )
    fill = f"""
        INSERT INTO jobs (id, tenant, state, progress, attempt, fence, cancel_requested, request,
                          revision, created_at, started_at, finished_at, worker, lease_until)
        SELECT {new_id}, 'tenant-' || CAST(n % :num_tenants AS TEXT),
               CASE WHEN n > :first_queued THEN 'queued' WHEN n > :first_running THEN 'running'
                    WHEN n % 7 = 0 THEN 'failed' ELSE 'succeeded' END,
               0, 1, 1, false, old.request, 3, old.created_at - :num_rows + n,
               CASE WHEN n <= :first_queued THEN old.created_at - :num_rows + n + 1 END,
               CASE WHEN n <= :first_running THEN old.created_at - :num_rows + n + 60 END,
               CASE WHEN n > :first_running AND n <= :first_queued THEN 'h:1' END,
               CASE WHEN n > :first_running AND n <= :first_queued THEN old.created_at + 86400 END
        FROM jobs AS old, {numbers} WHERE old.tenant = 'template'
    """
    first_queued = NUM_ROWS - NUM_QUEUED
    values = {
        "num_rows": NUM_ROWS,
        "num_tenants": NUM_TENANTS,
        "first_queued": first_queued,
        "first_running": first_queued - NUM_RUNNING,
    }
    with engine.begin() as connection:
        connection.execute(text(fill), values)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            # As a record is that has lived for years; these go on by themselves otherwise.
            connection.execute(text("VACUUM"))
            connection.execute(text("CHECKPOINT"))
        connection.execute(text("ANALYZE"))


def _contention(url: str) -> Iterator[Claim]:
    """Claim from many processes and threads at once; each job may be taken once."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", url]
    processes = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(CLAIM_PROCESSES)
    ]
    taken: list[str] = []
    seconds: list[float] = []
    for process in processes:
        told, _ = process.communicate()
        assert process.returncode == 0
        for line in told.splitlines():
            job_id, took = line.split()
            taken.append(job_id)
            if took != "None":
                seconds.append(float(took))
    rate = len(seconds) / CONTENTION_SECONDS
    _say(
        f"  {CLAIMERS} claimers: {len(taken)} claims, {rate:.0f} a second; median "
        f"{1000 * statistics.median(seconds):.1f} ms, p99 {1000 * _p99(seconds):.1f} ms\n"
    )
    yield Claim("jobs that two claimers took", float(len(taken) - len(set(taken))), 0)
    yield Claim(f"{CLAIMERS} claimers on PostgreSQL: p99 over 100 ms", _p99(seconds) / 0.1, 1.0)


def _claim_in_threads(url: str, seed: int) -> None:
    """Be a quarter of the claimers: claim, work for a while, claim again."""
    engine = open_database(url)
    claims, store = JobClaims(engine, lease_seconds=3600), JobStore(engine)
    waiting = store.find(tenant="tenant-3", states=[JobState.QUEUED], limit=1)[0].id
    found: list[tuple[str, float | None]] = []
    warm = time.monotonic() + WARM_SECONDS
    until = warm + CONTENTION_SECONDS

    def work(number: int) -> None:
        chance = random.Random(1000 * seed + number)
        while True:
            time.sleep(chance.expovariate(1 / WORK_SECONDS))
            if time.monotonic() > until:
                return
            began = time.monotonic()
            claim = claims.claim(waiting, worker=f"{seed}:{number}")
            took = time.monotonic() - began
            assert claim is not None
            # At first everybody connects, which a worker has done long before.
            found.append((claim.job_id, took if began > warm else None))

    threads = [
        threading.Thread(target=work, args=(number,))
        for number in range(CLAIMERS // CLAIM_PROCESSES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    sys.stdout.writelines(f"{job_id} {took}\n" for job_id, took in found)


def _beats(url: str) -> Iterator[Claim]:
    """Count how many workers can say that they live; ten thousand do so every two seconds."""
    engine = open_database(url)
    workers = WorkerStore(engine)
    names = [f"host-{number}:1" for number in range(2000)]
    for name in names:
        workers.announce(name, queues=[CONVERT_QUEUE], version="1", torch_version="2")
    num_beats, until = 0, time.monotonic() + BEAT_SECONDS

    def beat(own: list[str]) -> None:
        nonlocal num_beats
        while time.monotonic() < until:
            for name in own:
                workers.beat(name)
            num_beats += len(own)

    threads = [threading.Thread(target=beat, args=(names[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = num_beats / BEAT_SECONDS
    _say(f"  heartbeats: {rate:.0f} a second, of a client on the same two cores\n")
    took = _times(workers.all, 5)
    _say(f"  list of {len(names)} workers: {1000 * statistics.median(took):.0f} ms\n")
    yield Claim("heartbeats of 500 workers (250 a second) over what is managed", 250 / rate, 1)
    engine.dispose()


def _times(action: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        began = time.monotonic()
        action()
        found.append(time.monotonic() - began)
    return found


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    _claim_in_threads(sys.argv[1], int(sys.argv[2]))
