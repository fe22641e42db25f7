"""Finding, stopping, repeating and forgetting jobs over HTTP, and sending a request twice."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import pytest

from api.app import create_app
from tests.api.conftest import problem_of, served
from tests.corpus.torch_files import honest_zip
from worker.contract.job import JobError
from worker.contract.settings import Settings

ZOO = {"source": {"zoo": "digits_resnet26"}}


def submit(client, **options) -> dict:
    answer = client.post("/convert", json=ZOO | options)
    assert answer.status_code == 202, answer.json()
    return answer.json()


@pytest.fixture
def failed(client, claims) -> str:
    job_id = submit(client, name="broken", tags=["a"])["id"]
    claims.fail(claims.claim(job_id, worker="w"), JobError(code="x", message="x"))
    return job_id


def test_jobs_are_listed_page_by_page_with_filters(client, failed):
    made = [submit(client, name=f"job {number}", tags=["b"])["id"] for number in range(5)]
    newest_first = [*reversed(made), failed]
    seen, parameters = [], {"limit": 2}
    while True:
        page = client.get("/jobs", params=parameters).json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert seen == newest_first

    def ids(**filters) -> list[str]:
        return [job["id"] for job in client.get("/jobs", params=filters).json()["jobs"]]

    assert ids(state="failed") == [failed]
    assert ids(state=["failed", "queued"]) == newest_first
    assert ids(tag="b") == newest_first[:-1]
    assert ids(tag=["a", "b"]) == []
    assert ids(text="JOB 3") == [made[3]]
    assert ids(text=failed[:10]) == [failed]
    [job] = client.get("/jobs", params={"state": "failed"}).json()["jobs"]
    assert (job["name"], job["tags"], job["error"]["code"]) == ("broken", ["a"], "x")
    assert job["links"]["retry"] == f"/jobs/{failed}/retry"


@pytest.mark.parametrize("cursor", ["x", "ÿ", "", "0" * 48, "41da" + "g" * 44, "41da" + "0" * 45])
def test_a_cursor_that_is_none_is_refused(client, cursor):
    problem_of(client.get("/jobs", params={"cursor": cursor}), 422, "invalid_request")


@pytest.mark.parametrize(
    "filters", [{"limit": 0}, {"limit": 201}, {"state": "done"}, {"text": ""}, {"limit": "x"}]
)
def test_filters_that_make_no_sense_are_refused(client, filters):
    problem_of(client.get("/jobs", params=filters), 422, "invalid_request")


@pytest.mark.parametrize(
    "tags", [["a", "a"], [""], ["x" * 65], ["line\nfeed"], [str(n) for n in range(21)], "a"]
)
def test_tags_that_are_none_are_refused(client, tags):
    problem_of(client.post("/convert", json=ZOO | {"tags": tags}), 422, "invalid_request")


def test_a_waiting_job_is_cancelled_at_once(client, claims):
    job_id = submit(client)["id"]
    for _ in range(2):
        answer = client.post(f"/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert claims.claim(job_id, worker="w") is None
    problem_of(client.get(f"/jobs/{job_id}/weights"), 409, "job_cancelled")


def test_a_running_job_is_told(client, claims):
    job_id = submit(client)["id"]
    claim = claims.claim(job_id, worker="w")
    answer = client.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert answer.json()["cancel_requested"]
    claims.cancel(claim)
    assert client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"


def test_what_has_ended_is_not_cancelled(client, failed):
    detail = problem_of(client.post(f"/jobs/{failed}/cancel"), 409, "job_finished")
    assert "failed already" in detail


def test_a_job_is_asked_for_again(client, failed):
    answer = client.post(f"/jobs/{failed}/retry")
    again = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{again['id']}"
    assert (again["state"], again["retry_of"], again["tags"]) == ("queued", failed, ["a"])
    problem_of(client.post(f"/jobs/{again['id']}/retry"), 409, "job_not_finished")


def test_a_job_is_forgotten_only_once_it_has_ended(client, failed):
    waiting = submit(client)["id"]
    problem_of(client.delete(f"/jobs/{waiting}"), 409, "job_not_finished")
    answer = client.delete(f"/jobs/{failed}")
    assert (answer.status_code, answer.content) == (204, b"")
    problem_of(client.get(f"/jobs/{failed}"), 404, "job_not_found")
    problem_of(client.delete(f"/jobs/{failed}"), 404, "job_not_found")


def send(client, key: str, content: bytes, **request):
    files = {"checkpoint": ("x.pt", content), "request": ("", json.dumps(request).encode())}
    return client.post("/convert", files=files, headers={"Idempotency-Key": key})


def test_a_request_that_is_sent_again_makes_no_second_job(client, service):
    key = str(uuid.uuid4())
    first = send(client, key, honest_zip(), seed=1)
    again = send(client, key, honest_zip(), seed=1)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(client.get("/jobs").json()["jobs"]) == 1


def test_a_key_stands_for_one_request_and_its_files(client):
    send(client, "k", honest_zip(), seed=1)
    other_file = honest_zip() + b"\0"
    for answer in (send(client, "k", honest_zip(), seed=2), send(client, "k", other_file, seed=1)):
        problem_of(answer, 422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "\u00e4"])
def test_a_key_that_is_none_is_refused(client, key):
    headers = {"Idempotency-Key": key.encode()}
    problem_of(client.post("/convert", json=ZOO, headers=headers), 422, "invalid_request")


def test_a_job_says_when_it_goes_once_it_has_ended(client, claims, failed):
    def life(job_id: str) -> float | None:
        job = client.get(f"/jobs/{job_id}").json()
        if job["expires_at"] is None:
            return None
        ended, goes = (datetime.fromisoformat(job[each]) for each in ("finished_at", "expires_at"))
        return (goes - ended).total_seconds()

    days = client.get("/limits").json()["job_days"]
    assert life(failed) == pytest.approx(days * 86400)
    assert client.get("/jobs").json()["jobs"][0]["expires_at"] is not None
    assert life(submit(client)["id"]) is None


def test_without_a_time_jobs_are_kept_for_ever(tmp_path):
    settings = Settings(data_dir=tmp_path / "d", job_days=0, min_free_bytes=0)
    with served(create_app(settings)) as client:
        job = submit(client)["id"]
        ended = client.post(f"/jobs/{job}/cancel").json()
        assert (ended["state"], ended["expires_at"]) == ("cancelled", None)
