"""GET /jobs/compare: where requests differ, and who has the best figures."""

from __future__ import annotations

import pytest

from api.job_comparison import differences, figures
from tests.api.conftest import problem_of

RESULTS = [
    {"architecture": "a", "top1_percent": {"refined": 91.0}, "peak_bytes": {"momentum": 100}},
    {"architecture": "a", "top1_percent": {"refined": 92.0}, "peak_bytes": {"momentum": 100}},
    {"architecture": "b", "top1_percent": None, "peak_bytes": {"momentum": 90}},
]


@pytest.fixture
def jobs(client, claims) -> list[str]:
    """Three jobs that have succeeded, with gamma 0.5, 0.25 and 0.25."""
    found = []
    for gamma, result in zip((0.5, 0.25, 0.25), RESULTS, strict=True):
        request = {
            "source": {"zoo": "digits_resnet26"},
            "conversion": {"gamma": gamma},
            "name": f"gamma {gamma}",
        }
        job = client.post("/convert", json=request).json()["id"]
        claims.succeed(claims.claim(job, worker="w"), result=result, files=[])
        found.append(job)
    return found


def compare(client, *jobs):
    return client.get("/jobs/compare", params={"job": jobs})


def test_what_differs_and_what_is_best(client, jobs):
    answer = compare(client, *jobs)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [one["id"] for one in body["jobs"]] == jobs
    assert body["request_differences"] == [
        {"path": "/conversion/gamma", "values": [0.5, 0.25, 0.25]}
    ]
    found = {one["path"]: one for one in body["figures"]}
    assert found["/top1_percent/refined"] == {
        "path": "/top1_percent/refined",
        "better": "higher",
        "values": [91.0, 92.0, None],
        "best": [1],
    }
    assert found["/peak_bytes/momentum"]["best"] == [2]
    assert found["/architecture"]["values"] == ["a", "a", "b"]
    assert (found["/architecture"]["better"], found["/architecture"]["best"]) == (None, [])
    assert len(found["/seconds"]["values"]) == 3
    assert all(value >= 0 for value in found["/seconds"]["values"])


def test_two_that_are_alike_have_no_best(client, jobs):
    body = compare(client, jobs[1], jobs[1]).json()
    assert body["request_differences"] == []
    assert all(one["best"] == [] for one in body["figures"])


def test_only_jobs_with_a_result_are_compared(client, claims, jobs):
    waiting = client.post("/convert", json={"source": {"zoo": "digits_resnet26"}}).json()["id"]
    problem_of(compare(client, jobs[0], waiting), 409, "job_not_finished")
    client.post(f"/jobs/{waiting}/cancel")
    problem_of(compare(client, jobs[0], waiting), 409, "job_cancelled")
    problem_of(compare(client, jobs[0], "0" * 32), 404, "job_not_found")
    problem_of(compare(client, jobs[0]), 422, "invalid_request")
    problem_of(compare(client, jobs[0], "x"), 422, "invalid_request")


def test_an_option_that_one_request_lacks_is_null(service, jobs):
    found = [service.store.get(job, tenant="default") for job in jobs[:2]]
    found[1].request["refinement"] = None
    paths = {one.path: one.values for one in differences(found)}
    assert paths["/refinement/max_steps"] == (100, None)
    assert {one.path for one in figures(found)} >= {"/peak_bytes/momentum", "/seconds"}


def test_it_is_no_job(client):
    answer = client.delete("/jobs/compare")
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"
