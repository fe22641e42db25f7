"""The HTTP API under load, against bare Starlette in the same run; each side has a core."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
from sqlalchemy import create_engine, insert, text

from tests.benchmarks import promptness
from tests.benchmarks.api_process import Served, api, load, process
from tests.benchmarks.crowds import follow_all, stall_all
from tests.benchmarks.findings import Claim
from worker.contract.database import open_database
from worker.contract.job_claims import JobClaims
from worker.contract.job_record import new_id
from worker.contract.job_store import JobStore
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import job_tags, jobs

NUM_ROUNDS = 5
ROUND_SECONDS = 4.0
CONNECTIONS = 16
UPLOAD_BYTES = 300 << 20
NUM_LISTED = 100_000
NUM_STREAMS = 1000
NUM_EVENTS = 20
NUM_SLOW = 500
SLOW_SECONDS = 5
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
ZOO = {"source": {"zoo": "digits_resnet26"}}


def run() -> Iterator[Claim]:
    """Measure single jobs, uploads, lists, event streams and slow clients."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with api(folder / "data") as ours:
            job = httpx.post(f"{ours.url}/convert", json=ZOO, headers=ours.headers).json()
            (folder / "job.json").write_text(json.dumps(job))
            places = ["--folder", str(folder), "--body", str(folder / "job.json")]
            with process(["tests.benchmarks.bare_server", *places], {}) as bare:
                yield from _single_job(ours, bare, job["id"])
                yield from _uploads(ours, bare, folder)
        yield from promptness.run(folder)
        yield from _streams(folder / "streams")
        yield from _slow_clients(folder / "slow")
        yield from _lists(folder / "lists", None)
        yield from _postgres_lists(folder / "postgres")


def _single_job(ours: Served, bare: Served, job_id: str) -> Iterator[Claim]:
    ratios = []
    for _ in range(NUM_ROUNDS):
        found = [
            load(
                one.url, f"/jobs/{job_id}", ours.key, connections=CONNECTIONS, seconds=ROUND_SECONDS
            )
            for one in (bare, ours)
        ]
        theirs, mine = (one["per_second"] for one in found)
        _say(f"  GET job, per second: bare {theirs:.0f}, ours {mine:.0f}\n")
        ratios.append(theirs / mine)
    yield Claim(
        "GET /jobs/{id} with key and database: bare Starlette's requests per second over ours",
        statistics.median(ratios),
        1 / 0.35,
    )


def _uploads(ours: Served, bare: Served, folder: Path) -> Iterator[Claim]:
    ratios = []
    body = folder / "body"
    body.write_bytes(os.urandom(1 << 20) * (UPLOAD_BYTES >> 20))
    for _ in range(NUM_ROUNDS):
        theirs, mine = _send(bare.url, body, ours), _send(ours.url, body, ours)
        _say(f"  upload, seconds: bare {theirs:.2f}, ours {mine:.2f}\n")
        ratios.append(mine / theirs)
    yield Claim(
        f"POST /uploads of {UPLOAD_BYTES >> 20} MiB, hashed and synced: our seconds over a sink's",
        statistics.median(ratios),
        1 / 0.70,
    )


def _send(url: str, body: Path, ours: Served) -> float:
    parts = httpx.URL(url)
    connection = http.client.HTTPConnection(parts.host, parts.port)
    started = time.perf_counter()
    with body.open("rb") as file:
        headers = ours.headers | {"Content-Length": str(body.stat().st_size)}
        connection.request("POST", "/uploads", body=file, headers=headers)
    answer = connection.getresponse()
    made = json.loads(answer.read())
    seconds = time.perf_counter() - started
    connection.close()
    assert answer.status in (200, 201), made
    if "id" in made:
        httpx.delete(f"{url}/uploads/{made['id']}", headers=ours.headers)
    return seconds


def _streams(folder: Path) -> Iterator[Claim]:
    """A thousand clients follow one job."""
    with api(folder) as ours:
        job = httpx.post(f"{ours.url}/convert", json=ZOO, headers=ours.headers).json()["id"]
        claims = JobClaims(open_database(f"sqlite:///{folder / 'momentum.db'}"), lease_seconds=600)

        def happen() -> int:
            claim = claims.claim(job, worker="w")
            assert claim is not None
            for number in range(NUM_EVENTS):
                claims.record_progress(claim, progress=number / NUM_EVENTS, data={"step": number})
                time.sleep(0.1)
            resident_bytes = ours.resident_bytes
            claims.succeed(claim, result={}, files=[])
            return resident_bytes

        # Its threads and their connections are there however many streams there are.
        load(ours.url, f"/jobs/{job}/events", ours.key, connections=CONNECTIONS * 4, seconds=2)
        before = ours.resident_bytes
        found = follow_all(ours.url, f"/jobs/{job}/events", ours.key, NUM_STREAMS, happen)
        grown = found.server_bytes - before
        expected = NUM_EVENTS + 3  # queued, started, succeeded
        complete = sum(numbers == list(range(1, expected + 1)) for numbers in found.numbers)
        _say(f"  {complete} of {NUM_STREAMS} streams whole, {grown / NUM_STREAMS:.0f} bytes each\n")
    yield Claim(
        f"of {NUM_STREAMS} event streams, those that miss an event", NUM_STREAMS - complete, 0
    )
    yield Claim("bytes for an event stream over 40 KB", grown / NUM_STREAMS / 40_000, 1.0)


def _slow_clients(folder: Path) -> Iterator[Claim]:
    """Half of them never end their head, half their body."""
    options = {"connections": 1, "seconds": ROUND_SECONDS}
    with api(folder, MOMENTUM_RECEIVE_SECONDS=str(SLOW_SECONDS)) as ours:
        before = load(ours.url, "/jobs", ours.key, **options)
        with ExitStack() as stack:
            ended = stall_all(stack, ours.url, ours.key, NUM_SLOW)
            meanwhile = load(ours.url, "/jobs", ours.key, **options)
            seconds = ended(SLOW_SECONDS * 4)
        _say(f"  p99 {before['p99_ms']:.1f} ms, beside slow clients {meanwhile['p99_ms']:.1f} ms\n")
    yield Claim(
        f"p99 beside {NUM_SLOW} slow clients over without",
        meanwhile["p99_ms"] / before["p99_ms"],
        2.0,
    )
    yield Claim("the last slow client's end over the deadline", seconds / SLOW_SECONDS, 1.5)


def _lists(folder: Path, database: str | None) -> Iterator[Claim]:
    """Pages of a list of many jobs, by each filter."""
    kind = "SQLite" if database is None else "PostgreSQL"
    folder.mkdir(parents=True, exist_ok=True)
    _fill(database or f"sqlite:///{folder / 'momentum.db'}")
    with api(folder, database=database) as ours:
        for query in ("", "?state=succeeded", "?tag=common", "?tag=rare", "?text=name-99&limit=50"):
            found = load(ours.url, f"/jobs{query}", ours.key, connections=1, seconds=ROUND_SECONDS)
            yield Claim(
                f"{NUM_LISTED} jobs on {kind}, GET /jobs{query}: p99 over 50 ms",
                found["p99_ms"] / 50,
                1.0,
            )


def _fill(database: str) -> None:
    """Record many jobs at once, as they would be after years."""
    engine = open_database(database)
    template = JobStore(engine).submit(
        ConvertRequest(source=Source(zoo="resnet50")), tenant="default"
    )
    with engine.begin() as connection:
        row = dict(connection.execute(jobs.select()).mappings().one())
        rows, tags = [], []
        for number in range(NUM_LISTED):
            made = {"id": new_id(), "created_at": row["created_at"] - number}
            state = "succeeded" if number % 3 else "failed"
            rows.append(row | made | {"name": f"name-{number}", "state": state})
            names = ["common"] if number % 2 else []
            names += ["rare"] if number % 5000 == 0 else []
            tags += [
                {
                    "job_id": made["id"],
                    "tag": tag,
                    "tenant": "default",
                    "created_at": made["created_at"],
                }
                for tag in names
            ]
        connection.execute(insert(jobs), rows)
        connection.execute(insert(job_tags), tags)
        connection.execute(text("ANALYZE"))
    assert template.id
    engine.dispose()


def _postgres_lists(folder: Path) -> Iterator[Claim]:
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    schema = f"momentum_benchmark_{os.getpid()}"
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except Exception as error:
        _say(f"  no PostgreSQL: {type(error).__name__}\n")
        return
    try:
        yield from _lists(folder, f"{POSTGRES}?options=-csearch_path%3D{schema}")
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
