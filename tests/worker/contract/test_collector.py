"""What nobody can ask for any more is removed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import func, select, update

from tests.conftest import ROOT
from worker.contract.audit_log import AuditLog, Deed, Outcome
from worker.contract.collector import DELIVERY_SECONDS, KEY_SECONDS, SENT_SECONDS, Collector
from worker.contract.database import database_now
from worker.contract.file_store import FileStore
from worker.contract.job import Artifact, Upload
from worker.contract.job_record import new_id
from worker.contract.job_store import IdempotencyKey
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import audit, idempotency_keys, jobs, webhook_deliveries
from worker.contract.tables import outbox as messages
from worker.contract.webhook_store import WebhookStore


@pytest.fixture
def files(tmp_path) -> FileStore:
    return FileStore(tmp_path / "data")


@pytest.fixture
def collector(engine, files) -> Collector:
    return Collector(engine, files)


def put(files, content: bytes, *, age: float = 7200.0) -> str:
    with files.temporary_folder() as folder:
        (folder / "x").write_bytes(content)
        stored = files.put(folder / "x")
    path = files.path_of(stored.sha256)
    os.utime(path, (time.time() - age,) * 2)
    return stored.sha256


def test_old_files_without_a_job_go_and_the_others_stay(store, claims, files, collector):
    sent, made, young, left = (put(files, word) for word in (b"sent", b"made", b"young", b"left"))
    os.utime(files.path_of(young))
    checkpoint = Upload(
        id=new_id(), tenant="t", kind="checkpoint", blob_sha256=sent, num_bytes=4, facts={}
    )
    job = store.submit(ConvertRequest(), tenant="t", checkpoint=checkpoint)
    artifact = Artifact(name="a", sha256=made, num_bytes=4, media_type="x/y")
    claims.succeed(claims.claim(job.id, worker="w"), result={}, files=[artifact])
    assert collector.collect() == 1
    there = [files.path_of(one).exists() for one in (sent, made, young, left)]
    assert there == [True, True, True, False]
    store.delete(job.id, tenant="t")
    assert collector.collect() == 2
    assert files.path_of(young).exists()


def test_states_to_go_on_from_stay_while_their_job_may_go_on(store, claims, files, collector):
    ended, waiting = (store.submit(ConvertRequest(), tenant="t").id for _ in range(2))
    claims.succeed(claims.claim(ended, worker="w"), result={}, files=[])
    for name in (waiting, ended, "0" * 32):
        files.unfinished_path(name).mkdir()
        (files.unfinished_path(name) / "state").write_bytes(b"x")
    assert collector.collect() == 2
    assert files.unfinished_jobs() == [waiting]


def test_a_file_that_is_put_again_while_the_collector_looks_stays(files):
    """Between the look into the record and the removal."""
    sha256 = put(files, b"again")

    def is_needed(_: str) -> bool:
        with files.temporary_folder() as folder:
            (folder / "x").write_bytes(b"again")
            files.put(folder / "x")
        return False

    assert files.collect(is_needed, older_than_seconds=3600) == 0
    assert files.path_of(sha256).read_bytes() == b"again"


def test_a_file_of_an_old_upload_is_young_once_it_is_put(files, tmp_path):
    """Its row comes later; what was sent may have waited for a day."""
    with files.temporary_folder() as folder:
        (folder / "x").write_bytes(b"x")
        os.utime(folder / "x", (1, 1))
        sha256 = files.put(folder / "x").sha256
    assert files.collect(lambda _: False, older_than_seconds=60) == 0
    assert files.path_of(sha256).exists()


def test_nothing_is_lost_between_one_who_puts_and_one_who_collects(files):
    """Whoever has put a file finds it, for as long as it is young."""
    content = b"contended"
    stopped = threading.Event()

    def collect() -> None:
        while not stopped.is_set():
            files.collect(lambda _: False, older_than_seconds=60)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for _ in range(100):
            sha256 = put(files, content)  # old at once, so it may go
            with files.temporary_folder() as folder:
                (folder / "x").write_bytes(content)
                files.put(folder / "x")
            assert files.path_of(sha256).read_bytes() == content
    finally:
        stopped.set()
        thread.join()


def test_sent_messages_and_old_keys_are_forgotten(engine, store, outbox, collector):
    request = ConvertRequest(source=Source(zoo="digits_resnet26"))
    job = store.submit(request, tenant="t", key=IdempotencyKey("old", "0" * 64))
    store.submit(request, tenant="t", key=IdempotencyKey("new", "0" * 64))
    first, second = outbox.waiting()
    outbox.mark_sent(first)
    with engine.begin() as connection:
        long_ago = database_now() - SENT_SECONDS - 5
        connection.execute(
            update(messages).where(messages.c.id == first.id).values(sent_at=long_ago)
        )
        connection.execute(
            update(idempotency_keys)
            .where(idempotency_keys.c.key == "old")
            .values(created_at=database_now() - KEY_SECONDS - 5)
        )
    collector.collect()
    with engine.connect() as connection:
        assert connection.scalars(select(messages.c.id)).all() == [second.id]
        assert connection.scalars(select(idempotency_keys.c.key)).all() == ["new"]
    # The broker may lose a message also after it was forgotten.
    assert outbox.announce_again(num_at_broker=lambda _: 0, older_than_seconds=5) == 1
    assert outbox.waiting()[-1].job_id == job.id
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(messages)) == 2


KEEP_SECONDS = 86400.0


@pytest.fixture
def expiring(engine, files) -> Collector:
    return Collector(engine, files, keep_seconds=KEEP_SECONDS)


def end(claims, files, job_id: str, content: bytes) -> str:
    """Let a job succeed with one file, which is old."""
    sha256 = put(files, content)
    artifact = Artifact(name="a", sha256=sha256, num_bytes=len(content), media_type="x/y")
    claims.succeed(claims.claim(job_id, worker="w"), result={}, files=[artifact])
    return sha256


def grow_old(engine, job_id: str) -> None:
    with engine.begin() as connection:
        ended = database_now() - KEEP_SECONDS - 5
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(created_at=ended, started_at=ended, finished_at=ended)
        )


def test_jobs_that_ended_long_ago_go_with_their_files(engine, store, claims, files, expiring):
    old, new = (store.submit(ConvertRequest(tags=("t",)), tenant="t").id for _ in range(2))
    old_file, new_file = (end(claims, files, one, one.encode()) for one in (old, new))
    grow_old(engine, old)
    assert expiring.drop_expired() == 1
    with pytest.raises(LookupError):
        store.get(old, tenant="t")
    assert store.events_of(old) == []
    assert files.path_of(old_file).exists(), "a download may have just found it"
    expiring.collect()
    assert not files.path_of(old_file).exists()
    assert files.path_of(new_file).exists()
    assert store.get(new, tenant="t").id == new
    assert expiring.drop_expired() == 0


def test_what_waits_or_runs_never_expires_and_without_a_time_nothing_does(
    engine, store, claims, files, collector, expiring
):
    running, waiting = (store.submit(ConvertRequest(), tenant="t").id for _ in range(2))
    claims.claim(running, worker="w")
    for one in (waiting, running):
        with engine.begin() as connection:
            long_ago = database_now() - 10 * KEEP_SECONDS
            connection.execute(
                update(jobs)
                .where(jobs.c.id == one)
                .values(created_at=long_ago, started_at=long_ago)
            )
    assert expiring.drop_expired() == 0
    ended = store.submit(ConvertRequest(), tenant="idle").id
    end(claims, files, ended, b"x")
    grow_old(engine, ended)
    assert collector.drop_expired() == 0
    # Even if its end is recorded: a state that may go on keeps a job.
    with engine.begin() as connection:
        connection.execute(
            update(jobs).where(jobs.c.id == running).values(finished_at=database_now() - 1e9)
        )
    assert expiring.drop_expired() == 1
    assert store.get(running, tenant="t").state == "running"


def test_a_retrys_files_outlive_the_job_that_they_were_sent_for(
    engine, store, claims, files, expiring
):
    sent = put(files, b"sent")
    checkpoint = Upload(
        id=new_id(), tenant="t", kind="checkpoint", blob_sha256=sent, num_bytes=4, facts={}
    )
    first = store.submit(ConvertRequest(), tenant="t", checkpoint=checkpoint).id
    end(claims, files, first, b"made")
    again = store.retry(first, tenant="t")
    grow_old(engine, first)
    assert expiring.drop_expired() == 1
    expiring.collect()
    assert files.path_of(sent).exists()
    assert set(store.uploads_of(again)) == {"checkpoint"}


KILLED = """
import sys
import time
from pathlib import Path
from worker.contract import collector as module
from worker.contract.collector import Collector
from worker.contract.database import open_database
from worker.contract.file_store import FileStore

forget = module.forget_ended_job
module.forget_ended_job = lambda *a, **k: (time.sleep(0.05), forget(*a, **k))[1]  # or it is over
collector = Collector(open_database(sys.argv[1]), FileStore(Path(sys.argv[2])), keep_seconds=86400)
print("begin", flush=True)
collector.drop_expired()
collector.collect()
"""


def test_a_collector_that_is_killed_leaves_whole_jobs(
    engine, database_url, store, claims, files, expiring, tmp_path
):
    ids = [store.submit(ConvertRequest(), tenant="t").id for _ in range(60)]
    made = {one: end(claims, files, one, one.encode()) for one in ids}
    for one in ids:
        grow_old(engine, one)
    command = [sys.executable, "-c", KILLED, database_url, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"begin\n"
        deadline = time.monotonic() + 120
        while len(store.find(tenant="t", limit=100)) > 50 and time.monotonic() < deadline:
            pass
        process.kill()
    left = {one.id for one in store.find(tenant="t", limit=100)}
    assert 0 < len(left) < len(ids)
    for one in left:
        assert [file.sha256 for file in store.artifacts_of(one)] == [made[one]]
        assert files.path_of(made[one]).exists()
        assert [event.kind for event in store.events_of(one)] == ["queued", "started", "succeeded"]
    assert expiring.drop_expired() == len(left)
    expiring.collect()
    assert not any(files.path_of(one).exists() for one in made.values())


def test_who_did_what_is_forgotten_after_its_time_and_not_without_one(engine, files, collector):
    log, keeps = AuditLog(engine), Collector(engine, files, audit_seconds=KEEP_SECONDS)
    deed = Deed(
        request_id=new_id(),
        tenant=None,
        key_id=None,
        address=None,
        operation="x",
        target="/x",
        status=200,
        outcome=Outcome.SUCCEEDED,
    )
    for _ in range(2):
        log.append(deed)
    old = log.find({})[-1].id
    with engine.begin() as connection:
        long_ago = database_now() - KEEP_SECONDS - 5
        connection.execute(update(audit).where(audit.c.id == old).values(at=long_ago))
    collector.collect()
    assert len(log.find({})) == 2
    keeps.collect()
    assert [one.deed for one in log.find({})] == [deed]


def test_what_became_of_messages_is_forgotten(engine, store, claims, collector):
    webhooks = WebhookStore(engine)
    webhook = webhooks.create(tenant="t", url="https://example.org", kinds=["cancelled"])[0].id
    for _ in range(2):
        store.cancel(store.submit(ConvertRequest(), tenant="t").id, tenant="t")
    old, new = webhooks.take_due()
    for one in (old, new):
        webhooks.record(one.delivery, status=200, problem=None)
    with engine.begin() as connection:
        connection.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.id == old.delivery.id)
            .values(finished_at=database_now() - DELIVERY_SECONDS - 5)
        )
    collector.collect()
    assert [one.id for one in webhooks.deliveries_of(webhook)] == [new.delivery.id]
