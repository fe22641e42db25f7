"""What nobody can ask for any more is removed, and nothing else."""

from __future__ import annotations

import os
import threading
import time

import pytest
from sqlalchemy import func, select, update

from worker.contract.collector import KEY_SECONDS, SENT_SECONDS, Collector
from worker.contract.database import database_now
from worker.contract.file_store import FileStore
from worker.contract.job import Artifact, Upload
from worker.contract.job_record import new_id
from worker.contract.job_store import IdempotencyKey
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import idempotency_keys
from worker.contract.tables import outbox as messages


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
    waiting, ended = (store.submit(ConvertRequest(), tenant="t").id for _ in range(2))
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
    assert outbox.announce_again(num_at_broker=lambda: 0, older_than_seconds=5) == 1
    assert outbox.waiting()[-1].job_id == job.id
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(messages)) == 2
