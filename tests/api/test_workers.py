"""Workers and queues over HTTP: who sees what, and who may change it."""

from __future__ import annotations

import pytest

from tests.api.conftest import problem_of
from tests.api.test_keys import ZOO, bearer
from worker.contract.key_store import Scope
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.outbox import Outbox
from worker.contract.worker_store import Device

NAME = "gpu-host:4711"


@pytest.fixture
def worker(service):
    service.workers.announce(NAME, queues=[CONVERT_QUEUE], version="0.1.0", torch_version="2.14.1")
    device = Device(
        name="cuda:0",
        model="NVIDIA L4",
        memory_bytes=24 << 30,
        num_threads=8,
        datasets=("birds", "photos"),
    )
    service.workers.describe(NAME, device)


def test_a_worker_is_listed_drained_and_resumed(client, worker):
    [shown] = client.get("/workers").json()["workers"]
    assert (shown["name"], shown["state"], shown["busy"]) == (NAME, "alive", False)
    assert shown["device"]["memory_bytes"] == 24 << 30
    assert (shown["queues"], shown["torch_version"]) == ([CONVERT_QUEUE], "2.14.1")
    assert client.post(f"/workers/{NAME}/drain").json()["draining"]
    assert client.get("/workers").json()["workers"][0]["draining"]
    assert not client.post(f"/workers/{NAME}/resume").json()["draining"]
    for name in ("unknown", "a%00b"):
        problem_of(client.post(f"/workers/{name}/drain"), 404, "worker_not_found")


def test_registered_data_sets_are_listed_and_others_refused(client, worker):
    shown = client.get("/datasets").json()["datasets"]
    assert shown == [{"name": "birds", "num_workers": 1}, {"name": "photos", "num_workers": 1}]
    request = ZOO | {"data": {"registered": "photos"}}
    job = client.post("/convert", json=request)
    assert job.status_code == 202
    assert job.json()["request"]["data"]["registered"] == "photos"
    unknown = client.post("/convert", json=ZOO | {"data": {"registered": "phots"}})
    words = problem_of(unknown, 422, "unknown_dataset")
    assert "no worker has a data set 'phots' (there are birds, photos" in words
    on_cpu = request | {"worker": {"device": "cpu"}}
    words = problem_of(client.post("/convert", json=on_cpu), 422, "no_suitable_worker")
    assert "a worker on cpu that has the data set photos" in words
    odd = client.post("/convert", json=ZOO | {"data": {"registered": "../up"}})
    assert "no data set can be called" in problem_of(odd, 422, "invalid_request")


def test_a_registered_data_set_needs_what_one_that_is_sent_needs(client, worker):
    goal = {"goal": {"metric": "top1"}}
    data = {"registered": "photos", "labelled": False}
    answer = client.post("/convert", json=ZOO | {"data": data, "refinement": goal})
    assert "no labels" in problem_of(answer, 422, "invalid_option")


def test_a_queue_is_paused_and_resumed(client, claims, service):
    job = client.post("/convert", json=ZOO).json()
    assert job["waiting_for"] is None
    paused = client.post(f"/queues/{CONVERT_QUEUE}/pause").json()
    assert (paused["paused"], paused["queued"], paused["running"]) == (True, 1, 0)
    assert claims.claim(job["id"], worker="w") is None
    before = client.get(f"/jobs/{job['id']}").headers["etag"]
    Outbox(service.store.engine).settle_paused()
    answer = client.get(f"/jobs/{job['id']}", headers={"If-None-Match": before})
    assert (answer.status_code, answer.json()["waiting_for"]) == (200, "queue")
    resumed = client.post(f"/queues/{CONVERT_QUEUE}/resume").json()
    assert (resumed["paused"], resumed["paused_at"]) == (False, None)
    assert claims.claim(job["id"], worker="w") is not None
    [queue] = client.get("/queues").json()["queues"]
    assert (queue["queued"], queue["running"], queue["oldest_wait_seconds"]) == (0, 1, None)
    problem_of(client.post("/queues/unknown/pause"), 404, "queue_not_found")


def test_a_tenant_sees_that_a_worker_is_busy_and_not_with_whose_job(
    client, service, claims, worker
):
    scopes = {"a": [Scope.READ, Scope.WRITE], "b": [Scope.READ], "default": [Scope.ADMIN]}
    owner, other, admin = (
        bearer(service.keys.create(tenant=tenant, name="k", scopes=scopes[tenant])[1])
        for tenant in scopes
    )
    job = client.post("/convert", json=ZOO, headers=owner).json()["id"]
    claims.claim(job, worker=NAME)
    seen = [
        client.get("/workers", headers=headers).json()["workers"][0]
        for headers in (owner, other, admin)
    ]
    assert [one["busy"] for one in seen] == [True, True, True]
    assert [one["current_job"] for one in seen] == [job, None, job]
    assert job not in client.get("/workers", headers=other).text


def test_what_no_worker_has_is_refused_at_once_with_the_reason(client, worker):
    """With what there is, for whoever has to ask for less."""
    asked = {
        "cpu": (ZOO | {"worker": {"device": "cpu"}}, "a worker on cpu, and there is none"),
        "memory": (
            ZOO | {"worker": {"memory_bytes": 80_000_000_000}},
            "a worker with 80,000,000,000 bytes of memory, and none has so much",
        ),
    }
    for request, reason in asked.values():
        for path in ("/convert", "/inspect"):
            detail = problem_of(client.post(path, json=request), 422, "no_suitable_worker")
            assert reason in detail
            assert "(there is cuda with 25,769,803,776 bytes)" in detail
    assert client.get("/jobs").json()["jobs"] == [], "nothing is kept of it"
    fitting = {"worker": {"device": "cuda", "memory_bytes": 24 << 30}, "priority": "high"}
    job = client.post("/convert", json=ZOO | fitting)
    assert job.status_code == 202
    assert job.json()["request"]["worker"] == fitting["worker"]


def test_a_job_is_not_repeated_where_no_worker_could_do_it(client, service, worker):
    job = client.post("/convert", json=ZOO | {"worker": {"device": "cuda"}}).json()
    assert client.post(f"/jobs/{job['id']}/cancel").status_code == 200
    device = Device(name="cpu", model="m", memory_bytes=1 << 30, num_threads=1)
    assert service.workers.describe(NAME, device)
    detail = problem_of(client.post(f"/jobs/{job['id']}/retry"), 422, "no_suitable_worker")
    assert "a worker on cuda, and there is none" in detail
    assert [one["id"] for one in client.get("/jobs").json()["jobs"]] == [job["id"]]


def test_a_job_that_has_not_ended_is_not_repeated_whoever_works(client, service, worker):
    job = client.post("/convert", json=ZOO | {"worker": {"device": "cuda"}}).json()
    device = Device(name="cpu", model="m", memory_bytes=1 << 30, num_threads=1)
    assert service.workers.describe(NAME, device)
    problem_of(client.post(f"/jobs/{job['id']}/retry"), 409, "job_not_finished")


def test_a_network_that_fits_no_worker_is_refused(client, service):
    service.workers.announce(NAME, queues=[CONVERT_QUEUE], version="1", torch_version="2")
    # Of one that has just started it is not known what it has.
    assert client.post("/convert", json=ZOO).status_code == 202
    # 25,557,032 parameters: weights of teacher and student, and gradients, 4 bytes each.
    least = 3 * 4 * 25_557_032
    refined = {"source": {"zoo": "resnet50"}, "data": {"synthetic": 16}}
    for memory_bytes, changed, status in (
        (least, {}, 202),
        (least - 1, {}, 422),
        (least - 1, {"refinement": None}, 202),
        (least - 1, {"data": None}, 202),  # without images nothing is refined
    ):
        device = Device(name="cpu", model="m", memory_bytes=memory_bytes, num_threads=1)
        assert service.workers.describe(NAME, device)
        answer = client.post("/convert", json=refined | changed)
        assert answer.status_code == status, answer.text
    detail = problem_of(client.post("/convert", json=refined), 422, "no_suitable_worker")
    assert "25,557,032 parameters takes more than 306,684,384 bytes" in detail


def test_a_worker_that_is_gone_refuses_nothing(client, service):
    """The operator may be about to start others."""
    assert client.post("/convert", json=ZOO | {"worker": {"device": "cuda"}}).status_code == 202


def test_a_need_that_is_none_is_refused(client):
    for worker in ({"memory_bytes": 0}, {"device": "tpu"}, {"gpu": True}):
        problem_of(client.post("/convert", json=ZOO | {"worker": worker}), 422, "invalid_request")
    problem_of(client.post("/convert", json=ZOO | {"priority": "top"}), 422, "invalid_request")
