"""Whose turn it is: tenants share the workers, each orders its own jobs; on both databases."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from sqlalchemy import select, update

from momentum_core.errors import ConfigError
from worker.contract.job import Job, JobState
from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore
from worker.contract.messages import CONVERT_QUEUE, queue_of
from worker.contract.outbox import Outbox
from worker.contract.request import REQUEST_VERSION, ConvertRequest, Source, WorkerNeeds
from worker.contract.tables import jobs
from worker.contract.worker_store import Device, WorkerStore

ZOO = Source(zoo="digits_resnet26")


def submit(store: JobStore, tenant: str = "default", **options) -> Job:
    return store.submit(ConvertRequest(source=ZOO, **options), tenant=tenant)


def needs(**values) -> dict[str, WorkerNeeds]:
    return {"worker": WorkerNeeds(**values)}


def turn(claims: JobClaims, message: Job, worker: str = "w") -> str | None:
    """Return the id of the job that a worker takes whom this message wakes."""
    claim = claims.claim(message.id, worker=worker)
    return claim and claim.job_id


def announce(workers: WorkerStore, name: str, memory_bytes: int) -> None:
    workers.announce(name, queues=[CONVERT_QUEUE], version="1", torch_version="2")
    device = Device(name="cuda:0", model="L4", memory_bytes=memory_bytes, num_threads=8)
    assert workers.describe(name, device)


def test_who_sends_many_does_not_keep_out_who_sends_one(store, claims):
    many = [submit(store, "many") for _ in range(4)]
    few = [submit(store, "few"), submit(store, "few")]
    one = submit(store, "one")
    taken = [turn(claims, each) for each in (*many, *few, one)]
    # By turns, the longest waiting first; then what is left.
    wanted = [many[0], few[0], one, many[1], few[1], many[2], many[3]]
    assert taken == [each.id for each in wanted]
    assert turn(claims, one) is None


def test_a_tenant_that_runs_less_comes_first_although_it_asked_later(store, claims):
    earlier = [submit(store, "busy") for _ in range(3)]
    first = claims.claim(earlier[0].id, worker="w")
    later = submit(store, "idle")
    assert turn(claims, earlier[1]) == later.id
    claims.cancel(first)  # now it is busy that runs less
    another = submit(store, "idle")
    assert turn(claims, another) == earlier[1].id


def test_a_tenants_most_urgent_job_comes_first_and_it_gains_nothing_over_others(store, claims):
    low = submit(store, priority="low")
    normal = submit(store)
    modest = submit(store, "other", priority="low")
    high = submit(store, priority="high")
    taken = [turn(claims, each) for each in (low, normal, modest, high)]
    # The other's job asked before the urgent one: it is the longest waiting tenant.
    assert taken == [modest.id, high.id, normal.id, low.id]


def test_a_message_wakes_for_its_own_lane_only(store, claims, outbox: Outbox):
    gpu = submit(store, **needs(device="cuda"))
    anywhere = submit(store)
    cpu = submit(store, **needs(device="cpu"))
    sent = {message.job_id: queue_of(message.lane) for message in outbox.waiting()}
    assert sent == {
        gpu.id: f"{CONVERT_QUEUE}-cuda",
        anywhere.id: CONVERT_QUEUE,
        cpu.id: f"{CONVERT_QUEUE}-cpu",
    }
    assert turn(claims, cpu) == cpu.id
    assert turn(claims, cpu) is None, "what is left waits in other lanes"
    assert turn(claims, anywhere) == anywhere.id
    assert turn(claims, gpu) == gpu.id


def test_lost_messages_are_repeated_in_the_lane_that_lacks_them(store, outbox):
    gpu, anywhere = submit(store, **needs(device="cuda")), submit(store)
    for message in outbox.waiting():
        outbox.mark_sent(message)
    held = {"any": 1, "cuda": 0}
    assert outbox.announce_again(num_at_broker=held.__getitem__, older_than_seconds=0) == 1
    assert [message.job_id for message in outbox.waiting()] == [gpu.id]
    assert anywhere.state == JobState.QUEUED


def test_a_job_waits_for_a_worker_with_the_memory_that_it_needs(engine, store, claims):
    workers = WorkerStore(engine)
    announce(workers, "small", 8 << 30)
    announce(workers, "large", 80 << 30)
    large = submit(store, **needs(memory_bytes=24 << 30))
    assert turn(claims, large, "small") is None
    found = store.get(large.id, tenant="default")
    assert (found.state, found.waiting_for) == (JobState.QUEUED, "worker")
    plain = submit(store)
    assert turn(claims, large, "small") == plain.id, "it does not keep back what can be done"
    assert turn(claims, plain, "large") == large.id
    assert store.get(large.id, tenant="default").waiting_for is None
    # A worker that does not say what it has is believed to have enough.
    another = submit(store, **needs(memory_bytes=24 << 30))
    assert turn(claims, another, "unknown") == another.id


def test_what_waits_for_something_is_not_taken_for_another(engine, store, claims):
    waiting, next_one = submit(store), submit(store)
    with engine.begin() as connection:
        mine = update(jobs).where(jobs.c.id == waiting.id)
        connection.execute(mine.values(waiting_for="space"))
    assert turn(claims, next_one) == next_one.id
    # By its own message it may: it can have been told already that there is space.
    assert turn(claims, waiting) == waiting.id


def test_a_job_of_an_older_form_is_one_for_every_worker(engine, store):
    """Only what asks for something new keeps workers away that do not know it."""
    plain, urgent = submit(store), submit(store, priority="high")
    query = select(jobs.c.id, jobs.c.request_version)
    with engine.connect() as connection:
        versions = {row.id: row.request_version for row in connection.execute(query)}
    assert versions == {plain.id: 1, urgent.id: REQUEST_VERSION}
    assert not {"worker", "priority"} & plain.request.keys()
    assert urgent.request["priority"] == "high"
    for job in (plain, urgent):
        assert ConvertRequest.from_json(job.request).to_json() == job.request


def test_a_need_that_means_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"worker.memory_bytes must be .* got 0"):
        WorkerNeeds(memory_bytes=0)


def test_claims_at_the_same_time_take_different_jobs(store, claims):
    """Each message is used once; nobody takes what another has, nobody goes away empty-handed."""
    waiting = [submit(store, f"tenant-{number % 3}") for number in range(30)]
    taken: list[str | None] = []
    start = threading.Barrier(6)

    def work(mine: list[Job]) -> None:
        start.wait()
        taken.extend(turn(claims, one) for one in mine)

    threads = [threading.Thread(target=work, args=(waiting[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(one.id for one in waiting)
