"""Workers and queues of a real service: who is there, and what starts when it may."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.end_to_end.conftest import Serving, serving
from worker.contract.messages import CONVERT_QUEUE, INSPECT_QUEUE

SHORT = {
    "source": {"zoo": "digits_resnet26"},
    "measurement": {"rivals": False, "predict": False},
    "refinement": {"max_steps": 1},
}
PROMPTLY = 40.0
"""While a worker may still be loading torch."""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, OMP_NUM_THREADS="1", MOMENTUM_PREPARE_SECONDS="0") as service:
        yield service


def workers(service: Serving, queue: str = CONVERT_QUEUE) -> list[dict[str, Any]]:
    """Workers of a queue."""
    answer = service.client.get("/workers")
    assert answer.status_code == 200, answer.text + service.log("api")
    found = answer.json()["workers"]
    return [one for one in found if queue in one["queues"]]


def until(fact: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def named(service: Serving) -> str:
    """Name of the worker, once it is ready."""
    return str(until(lambda: [one["name"] for one in workers(service) if one["device"]], 240)[0])


def test_a_worker_is_there_before_it_has_a_job_and_says_what_it_is(service: Serving):
    name = named(service)
    [shown] = workers(service)
    assert name.endswith(f":{service.worker()}")
    assert (shown["state"], shown["busy"], shown["draining"]) == ("alive", False, False)
    assert shown["device"]["name"] == "cpu"
    assert shown["device"]["num_threads"] == 1
    assert shown["device"]["memory_bytes"] > 1 << 30
    assert shown["queues"] == [CONVERT_QUEUE]
    [inspector] = until(lambda: workers(service, INSPECT_QUEUE), 240)
    until(lambda: workers(service, INSPECT_QUEUE)[0]["device"], 240)
    assert inspector["name"] != name
    seen = shown["seen_at"]
    until(lambda: workers(service)[0]["seen_at"] > seen, PROMPTLY)


def test_a_paused_queues_job_waits_and_starts_promptly_afterwards(service: Serving):
    named(service)
    assert service.client.post(f"/queues/{CONVERT_QUEUE}/pause").json()["paused"]
    location = service.submit(SHORT)
    until(lambda: service.job(location)["waiting_for"] == "queue", PROMPTLY)
    time.sleep(2)
    assert service.job(location)["state"] == "queued"
    service.client.post(f"/queues/{CONVERT_QUEUE}/resume")
    until(lambda: service.job(location)["state"] != "queued", PROMPTLY)
    service.wait_for(location, "succeeded", seconds=240)


def test_a_draining_worker_rests_and_works_again(service: Serving):
    name = named(service)
    assert service.client.post(f"/workers/{name}/drain").json()["draining"]
    location = service.submit(SHORT)
    time.sleep(6)
    assert service.job(location)["state"] == "queued"
    assert "takes no new job" in service.log("worker")
    # It does not listen, so that messages stay for others.
    events = service.client.get(f"{location}/events").json()["events"]
    assert [one["kind"] for one in events] == ["queued"]
    service.client.post(f"/workers/{name}/resume")
    until(lambda: service.job(location)["state"] != "queued", PROMPTLY)
    assert workers(service)[0]["current_job"] in location
    service.wait_for(location, "succeeded", seconds=240)
    text = {"Accept": "text/plain"}

    def said() -> str:
        return service.client.get(f"{location}/logs", headers=text).text

    until(lambda: "succeeded" in said(), PROMPTLY)
    assert " INFO worker.active_job: stage loading" in said()
    assert str(service.data_dir) not in said()


def test_a_worker_that_ends_is_not_listed(service: Serving):
    name = named(service)
    os.kill(service.worker(), signal.SIGTERM)
    until(lambda: name not in [one["name"] for one in workers(service)], 30)
    until(lambda: workers(service), 60)  # its supervisor has started another one
