"""Paused queues and draining workers, on both databases: the claim refuses, whoever asks."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import update

from worker.contract.collector import Collector
from worker.contract.database import database_now
from worker.contract.file_store import FileStore
from worker.contract.job import JobState
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.queue_store import QueueStore, is_paused
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import workers as table
from worker.contract.worker_store import FORGET_SECONDS, SILENT_SECONDS, Device, WorkerStore

DEVICE = Device(name="cuda:1", model="L4", memory_bytes=24 << 30, num_threads=8)


@pytest.fixture
def queues(engine) -> QueueStore:
    return QueueStore(engine)


@pytest.fixture
def workers(engine) -> WorkerStore:
    return WorkerStore(engine)


def announce(workers, name="host:1") -> None:
    workers.announce(name, queues=[CONVERT_QUEUE], version="1", torch_version="2")


def silent_for(engine, seconds: float) -> None:
    with engine.begin() as connection:
        connection.execute(update(table).values(seen_at=database_now() - seconds))


def kinds_of(store, job) -> list[str]:
    return [event.kind for event in store.events_of(job.id)]


def test_a_paused_queues_job_stays_and_says_why(queues, store, claims, outbox, job):
    queues.set_paused(CONVERT_QUEUE, paused=True)
    assert claims.claim(job.id, worker="w") is None
    assert outbox.settle_paused() == 1
    assert outbox.settle_paused() == 0
    waiting = store.get(job.id, tenant="default")
    assert (waiting.state, waiting.waiting_for) == (JobState.QUEUED, "queue")
    queues.set_paused(CONVERT_QUEUE, paused=False)
    assert outbox.settle_paused() == 1
    assert store.get(job.id, tenant="default").waiting_for is None
    assert kinds_of(store, job) == ["queued", "waiting", "resumed"]
    assert claims.claim(job.id, worker="w") is not None


def test_a_job_whose_message_was_used_up_is_announced_when_its_queue_goes_on(
    queues, claims, outbox, job
):
    [message] = outbox.waiting()
    outbox.mark_sent(message)
    queues.set_paused(CONVERT_QUEUE, paused=True)
    assert claims.claim(job.id, worker="w") is None
    outbox.settle_paused()
    # Nobody calls in vain for what is not to start.
    assert outbox.announce_again(num_at_broker=lambda _: 0, older_than_seconds=0) == 0
    assert outbox.waiting() == []
    queues.set_paused(CONVERT_QUEUE, paused=False)
    outbox.settle_paused()
    assert [one.job_id for one in outbox.waiting()] == [job.id]


def test_a_job_that_waits_for_its_queue_can_be_claimed_as_soon_as_it_goes_on(
    queues, store, claims, outbox, job
):
    """Its message may come before the relay has looked."""
    queues.set_paused(CONVERT_QUEUE, paused=True)
    outbox.settle_paused()
    queues.set_paused(CONVERT_QUEUE, paused=False)
    claim = claims.claim(job.id, worker="w")
    assert claim is not None
    assert store.get(job.id, tenant="default").waiting_for is None
    assert outbox.settle_paused() == 0


def test_a_job_that_runs_goes_on_and_one_that_waits_can_be_cancelled(
    queues, store, claims, outbox, job
):
    claim = claims.claim(job.id, worker="w")
    other = store.submit(ConvertRequest(source=Source(zoo="resnet50")), tenant="default")
    queues.set_paused(CONVERT_QUEUE, paused=True)
    outbox.settle_paused()
    claims.succeed(claim, result={}, files=[])
    cancelled = store.cancel(other.id, tenant="default")
    assert (cancelled.state, cancelled.waiting_for) == (JobState.CANCELLED, None)


def test_once_a_queue_is_paused_no_job_starts(queues, store, claims):
    """Claims and pauses at the same time: what has started by then, started before."""
    request = ConvertRequest(source=Source(zoo="resnet50"))
    waiting = [store.submit(request, tenant="default").id for _ in range(40)]
    started: list[str] = []

    def work() -> None:
        for job_id in waiting:
            if claims.claim(job_id, worker="w") is not None:
                started.append(job_id)
            time.sleep(0.05)  # or SQLite's lock would be taken again at once

    thread = threading.Thread(target=work)
    thread.start()
    while len(started) < 3:
        time.sleep(0.001)
    queue = queues.set_paused(CONVERT_QUEUE, paused=True)
    thread.join()
    running = [one for one in store.find(tenant="default") if one.state == JobState.RUNNING]
    assert len(running) == len(started) == queue.num_running < len(waiting)


def test_whoever_pauses_waits_for_a_claim_that_has_looked(engine, queues):
    """Or the job would start after the pause was answered."""
    done = threading.Event()

    def pause() -> None:
        queues.set_paused(CONVERT_QUEUE, paused=True)
        done.set()

    thread = threading.Thread(target=pause)
    with engine.begin() as connection:
        assert not is_paused(connection)
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(10)
    thread.join()


def test_a_queue_tells_how_much_waits_and_for_how_long(queues, store, claims, job):
    store.submit(ConvertRequest(source=Source(zoo="resnet50")), tenant="other")
    claims.claim(job.id, worker="w")
    [queue] = queues.all()
    assert (queue.name, queue.num_queued, queue.num_running) == (CONVERT_QUEUE, 1, 1)
    assert 0 <= queue.oldest_seconds < 60
    first = queues.set_paused(CONVERT_QUEUE, paused=True).paused_at
    assert queues.set_paused(CONVERT_QUEUE, paused=True).paused_at == first
    with pytest.raises(LookupError):
        queues.set_paused("other", paused=True)


def test_a_draining_worker_gets_no_job_and_its_message_goes_to_others(workers, claims, outbox, job):
    announce(workers, "rests")
    announce(workers, "works")
    workers.set_draining("rests", draining=True)
    [message] = outbox.waiting()
    outbox.mark_sent(message)
    assert claims.claim(job.id, worker="rests") is None
    assert [one.job_id for one in outbox.waiting()] == [job.id]
    assert claims.claim(job.id, worker="works") is not None
    workers.set_draining("rests", draining=False)
    with pytest.raises(LookupError):
        workers.set_draining("unknown", draining=True)


def test_a_worker_shows_what_it_is_and_does(engine, workers, claims, job):
    assert not workers.describe("host:1", DEVICE)
    announce(workers)
    assert workers.describe("host:1", DEVICE)
    claims.claim(job.id, worker="host:1")
    [worker] = workers.all()
    assert (worker.device, worker.queues, worker.job_id) == (DEVICE, (CONVERT_QUEUE,), job.id)
    assert worker.is_alive
    silent_for(engine, SILENT_SECONDS + 1)
    assert not workers.all()[0].is_alive
    assert workers.beat("host:1").is_alive
    announce(workers)
    assert workers.all()[0].device is None, "a process of the same name is another one"
    workers.leave("host:1")
    assert (workers.all(), workers.beat("host:1")) == ([], None)


def test_a_worker_that_was_silent_for_long_is_forgotten(engine, workers, tmp_path):
    announce(workers)
    collector = Collector(engine, FileStore(tmp_path / "data"))
    collector.collect()
    assert len(workers.all()) == 1
    silent_for(engine, FORGET_SECONDS + 1)
    collector.collect()
    assert workers.all() == []
