"""Whose turn it is: tenants share the workers, each orders its own jobs; on both databases."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from momentum_core.config import RefinementConfig
from momentum_core.errors import ConfigError
from worker.contract.job import Claim, Job, JobState
from worker.contract.job_claims import JobClaims
from worker.contract.job_store import JobStore
from worker.contract.messages import CONVERT_QUEUE, INSPECT_QUEUE, queue_of
from worker.contract.outbox import MAX_SETTLED, Outbox
from worker.contract.request import ConvertRequest, DataSource, Source, WorkerNeeds
from worker.contract.tables import jobs
from worker.contract.worker_store import Device, WorkerStore, datasets_at_hand

ZOO = Source(zoo="digits_resnet26")


def submit(store: JobStore, tenant: str = "default", **options) -> Job:
    return store.submit(ConvertRequest(source=ZOO, **options), tenant=tenant)


def needs(**values) -> dict[str, WorkerNeeds]:
    return {"worker": WorkerNeeds(**values)}


def turn(
    claims: JobClaims, message: Job, worker: str = "w", device: Device | None = None
) -> str | None:
    """Return the id of the job that a worker takes whom this message wakes."""
    claim = claims.claim(message.id, worker=worker, device=device)
    return claim and claim.job_id


def gpu(memory_bytes: int = 24 << 30) -> Device:
    return Device(name="cuda:0", model="L4", memory_bytes=memory_bytes, num_threads=8)


CPU = Device(name="cpu", model="x86_64", memory_bytes=16 << 30, num_threads=2)


def done_in_turn(claims: JobClaims, message: Job, num_workers: int, num_jobs: int) -> list[str]:
    """Return the tenants of the jobs that workers take, each of which ends its job first."""
    running: list[Claim] = []
    tenants = []
    for number in range(num_jobs):
        if len(running) == num_workers:
            claims.cancel(running.pop(0))
        claim = claims.claim(message.id, worker=f"w{number % num_workers}")
        assert claim is not None
        running.append(claim)
        tenants.append(claims.read(claim)[0].tenant)
        time.sleep(0.002)  # starts are told apart by the clock
    return tenants


@pytest.mark.parametrize("num_workers", [1, 2])
def test_however_few_workers_there_are_tenants_take_turns(store, claims, num_workers):
    """Also with as many backlogs as workers, or more."""
    many = [submit(store, tenant) for tenant in ("a", "b") for _ in range(6)]
    submit(store, "late")
    taken = done_in_turn(claims, many[0], num_workers, 9)
    assert "late" in taken[:3]
    assert abs(taken.count("a") - taken.count("b")) <= 1


def test_who_sends_many_does_not_keep_out_who_sends_one(store, claims):
    many = [submit(store, "many") for _ in range(4)]
    few = [submit(store, "few"), submit(store, "few")]
    one = submit(store, "one")
    taken = [turn(claims, each) for each in (*many, *few, one)]
    # By turns (who was never served, by name); then what is left.
    wanted = [few[0], many[0], one, few[1], many[1], many[2], many[3]]
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
    # Then it is the other's turn, and after that what is left.
    assert taken == [high.id, modest.id, normal.id, low.id]


def test_a_job_is_for_its_kind_of_device(store, claims, outbox: Outbox):
    on_gpu = submit(store, **needs(device="cuda"))
    anywhere = submit(store)
    cpu = submit(store, **needs(device="cpu"))
    sent = {message.job_id: queue_of(message.lane) for message in outbox.waiting()}
    assert sent == {
        on_gpu.id: f"{CONVERT_QUEUE}-cuda",
        anywhere.id: CONVERT_QUEUE,
        cpu.id: f"{CONVERT_QUEUE}-cpu",
    }
    assert turn(claims, on_gpu, device=CPU) == anywhere.id, "whatever wakes it"
    assert turn(claims, on_gpu, device=CPU) == cpu.id
    assert turn(claims, on_gpu, device=CPU) is None, "what is left is for another"
    assert turn(claims, on_gpu, device=gpu()) == on_gpu.id


def test_lost_messages_are_repeated_in_the_lane_that_lacks_them(store, outbox):
    on_gpu, anywhere = submit(store, **needs(device="cuda")), submit(store)
    for message in outbox.waiting():
        outbox.mark_sent(message)
    held = {"any": 1, "cuda": 0}
    assert outbox.announce_again(num_at_broker=held.__getitem__, older_than_seconds=0) == 1
    assert [message.job_id for message in outbox.waiting()] == [on_gpu.id]
    assert anywhere.state == JobState.QUEUED


def test_a_job_waits_for_a_worker_with_the_memory_that_it_needs(engine, store, claims):
    small, enough = gpu(8 << 30), gpu(80 << 30)
    large = submit(store, **needs(memory_bytes=24 << 30))
    assert turn(claims, large, "small", small) is None
    found = store.get(large.id, tenant="default")
    assert (found.state, found.waiting_for) == (JobState.QUEUED, "worker")
    plain = submit(store)
    assert turn(claims, large, "small", small) == plain.id, "it keeps nothing else back"
    assert turn(claims, plain, "large", enough) == large.id
    assert store.get(large.id, tenant="default").waiting_for is None


def test_a_worker_that_is_too_small_calls_one_that_is_idle(engine, store, claims, outbox):
    workers, small, enough = WorkerStore(engine), gpu(8 << 30), gpu(80 << 30)
    for name, device in (("small", small), ("large", enough)):
        workers.announce(name, queues=[CONVERT_QUEUE], version="1", torch_version="2")
        assert workers.describe(name, device)
    first = submit(store, **needs(memory_bytes=24 << 30))
    second = submit(store, **needs(memory_bytes=24 << 30))
    for message in outbox.waiting():
        outbox.mark_sent(message)
    assert turn(claims, first, "small", small) is None
    [message] = outbox.waiting()
    outbox.mark_sent(message)
    assert claims.claim(message.job_id, worker="large", device=enough) is not None
    # It is not idle any more: the relay repeats the message later.
    assert turn(claims, second, "small", small) is None
    assert outbox.waiting() == []


def test_a_worker_that_is_too_small_calls_nobody_who_cannot_do_it_either(
    engine, store, claims, outbox
):
    """An idle inspection worker, or another kind of device: it would be called for ever."""
    workers, small = WorkerStore(engine), gpu(8 << 30)
    large_cpu = Device(name="cpu", model="x86_64", memory_bytes=256 << 30, num_threads=64)
    for name, queue in (("cpu", CONVERT_QUEUE), ("inspection", INSPECT_QUEUE)):
        workers.announce(name, queues=[queue], version="1", torch_version="2")
        assert workers.describe(name, large_cpu)
    on_gpu = submit(store, **needs(device="cuda", memory_bytes=24 << 30))
    for message in outbox.waiting():
        outbox.mark_sent(message)
    assert turn(claims, on_gpu, "small", small) is None
    assert outbox.waiting() == []
    claims.cancel(claims.claim(on_gpu.id, worker="large"))
    anywhere = submit(store, **needs(memory_bytes=24 << 30))
    for message in outbox.waiting():
        outbox.mark_sent(message)
    workers.leave("cpu")
    assert turn(claims, anywhere, "small", small) is None
    assert outbox.waiting() == []


def test_a_job_waits_for_a_worker_that_has_its_data_set(engine, store, claims, outbox):
    workers, without = WorkerStore(engine), gpu()
    having = replace(without, datasets=("birds", "photos"))
    for name, device in (("without", without), ("having", having)):
        workers.announce(name, queues=[CONVERT_QUEUE], version="1", torch_version="2")
        assert workers.describe(name, device)
    assert datasets_at_hand(workers.all()) == {"birds": 1, "photos": 1}
    photos = submit(store, data=DataSource(registered="photos"))
    lost = submit(store, data=DataSource(registered="lost"))
    plain = submit(store)
    for message in outbox.waiting():
        outbox.mark_sent(message)
    assert turn(claims, photos, "without", without) == plain.id, "it keeps nothing else back"
    assert turn(claims, photos, "without", without) is None
    assert store.get(photos.id, tenant="default").waiting_for == "worker"
    # The one that has it is called; for what nobody has, nobody is.
    assert [message.job_id for message in outbox.waiting()] == [photos.id]
    assert turn(claims, photos, "having", having) == photos.id
    assert turn(claims, lost, "having", having) is None
    assert store.get(lost.id, tenant="default").state == JobState.QUEUED
    found = ConvertRequest.from_json(store.get(photos.id, tenant="default").request)
    assert (found.dataset_name, found.version) == ("photos", 3)


def test_data_are_named_in_one_way():
    with pytest.raises(ConfigError, match="names one of an upload, a registered"):
        DataSource(registered="photos", synthetic=10)
    for name in ("", "../up", ".hidden", "a/b", "x" * 101, "two words", "a\n"):
        with pytest.raises(ConfigError, match="no data set can be called"):
            DataSource(registered=name)


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
    plain = submit(store, data=DataSource(synthetic=10))
    urgent = submit(store, priority="high")
    query = select(jobs.c.id, jobs.c.request_version)
    with engine.connect() as connection:
        versions = {row.id: row.request_version for row in connection.execute(query)}
    assert versions == {plain.id: 1, urgent.id: 2}
    assert not {"worker", "priority"} & plain.request.keys()
    assert "registered" not in plain.request["data"]
    assert "gamma_steps" not in plain.request["refinement"]
    moving = ConvertRequest(refinement=RefinementConfig(gamma_steps=5))
    assert (moving.version, moving.to_json()["refinement"]["gamma_steps"]) == (3, 5)
    assert ConvertRequest.from_json(moving.to_json()) == moving
    assert urgent.request["priority"] == "high"
    for job in (plain, urgent):
        again = ConvertRequest.from_json(job.request).to_json()
        assert json.loads(json.dumps(again)) == job.request


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


def test_a_job_for_a_kind_of_worker_that_is_not_there_says_so(engine, store, claims, outbox):
    wants_gpu = submit(store, **needs(device="cuda"))
    anybody = submit(store)
    workers = WorkerStore(engine)
    workers.announce("cpu:1", queues=[CONVERT_QUEUE], version="1", torch_version="2")
    assert outbox.tell_without_worker() == 0, "it may turn out to compute on a GPU"
    workers.describe("cpu:1", CPU)
    assert outbox.tell_without_worker() == 1
    assert outbox.tell_without_worker() == 0
    waits = [store.get(job.id, tenant="default").waiting_for for job in (wants_gpu, anybody)]
    assert waits == ["worker", None]
    claim = claims.claim(wants_gpu.id, worker="gpu:1", device=gpu())
    assert claim is not None
    assert claim.job_id == wants_gpu.id, "the first one of its kind takes it"
    assert store.get(wants_gpu.id, tenant="default").waiting_for is None


def test_a_job_for_a_kind_of_worker_that_is_there_waits_for_nothing(engine, store, outbox):
    job = submit(store, **needs(device="cuda"))
    workers = WorkerStore(engine)
    workers.announce("gpu:1", queues=[CONVERT_QUEUE], version="1", torch_version="2")
    workers.describe("gpu:1", gpu())
    assert outbox.tell_without_worker() == 0
    assert store.get(job.id, tenant="default").waiting_for is None


def test_jobs_whose_workers_are_there_do_not_hide_one_whose_is_not(engine, store, outbox):
    workers = WorkerStore(engine)
    workers.announce("gpu:1", queues=[CONVERT_QUEUE], version="1", torch_version="2")
    workers.describe("gpu:1", gpu())
    for _ in range(MAX_SETTLED):
        submit(store, **needs(device="cuda"))
    hidden = submit(store, **needs(device="cpu"))
    workers.beat("gpu:1")  # submitting takes longer than silence on a busy machine
    assert outbox.tell_without_worker() == 1
    assert store.get(hidden.id, tenant="default").waiting_for == "worker"
