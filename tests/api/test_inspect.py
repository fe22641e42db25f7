"""POST /inspect: the answer, or where it will be; the same refusals as POST /convert."""

from __future__ import annotations

import json

import pytest

from api.app import create_app
from api.quota import MAX_OPEN_INSPECTIONS
from tests.api.conftest import problem_of, served
from tests.api.test_convert import DEFAULT_REQUEST, images
from tests.corpus.npz_files import honest_npz
from tests.corpus.torch_files import honest_legacy, honest_zip
from worker.contract.inspection import StepSpeed
from worker.contract.job import JobError
from worker.contract.job_claims import JobClaims

ZOO = {"source": {"zoo": "digits_resnet26"}}


@pytest.fixture
def client(settings):
    """Nobody answers here but the test, so nothing is waited for."""
    application = create_app(settings.model_copy(update={"inspect_seconds": 0.0}))
    with served(application) as client:
        client.service = application.state.service
        yield client


def send(client, path: str, checkpoint: bytes, data: bytes | None, request: dict):
    files = {"checkpoint": ("c", checkpoint), "request": ("", json.dumps(request))}
    if data is not None:
        files["data"] = ("d", data)
    return client.post(path, files=files)


def test_an_answer_that_takes_longer_is_found_at_its_location(client):
    answer = client.post("/inspect", json=ZOO)
    assert answer.status_code == 202
    view = answer.json()
    assert view["state"] == "waiting"
    assert answer.headers["location"] == f"/inspections/{view['id']}" == view["links"]["self"]
    assert int(answer.headers["retry-after"]) > 0
    assert client.get(answer.headers["location"]).json() == view

    client.service.inspections.answer(view["id"], {"summary": ["s"], "plan": {}})
    later = client.get(answer.headers["location"])
    assert (later.json()["state"], later.json()["summary"]) == ("answered", ["s"])
    assert "retry-after" not in later.headers


def test_a_job_that_would_fail_is_refused_in_the_answer(client):
    asked = client.post("/inspect", json=ZOO).json()["id"]
    client.service.inspections.refuse(asked, JobError(code="prediction_failed", message="m"))
    found = client.get(f"/inspections/{asked}").json()
    assert (found["state"], found["error"]["code"]) == ("refused", "prediction_failed")


def test_an_inspection_that_is_not_there(client):
    for wrong in ("0" * 32, "x"):
        problem_of(client.get(f"/inspections/{wrong}"), 404, "inspection_not_found")


def test_files_are_looked_into_and_not_kept(client, stored_files):
    answer = send(client, "/inspect", honest_zip(), honest_npz(), DEFAULT_REQUEST)
    assert answer.status_code == 202, answer.text
    question = client.service.inspections.question(answer.json()["id"])
    assert (question.architecture, question.num_classes) == ("cifar_resnet20", 10)
    assert (question.num_train, question.num_test) == (12, 6)
    assert stored_files() == []
    assert client.get("/jobs").json()["jobs"] == []


def test_an_upload_is_inspected_first_and_converted_then(client):
    upload = client.post("/uploads", content=honest_legacy()).json()["id"]
    asked = {"source": {"upload": upload}}
    assert client.post("/inspect", json=asked).status_code == 202
    assert client.post("/convert", json=asked).status_code == 202


@pytest.mark.parametrize(
    ("checkpoint", "data", "request_json", "code"),
    [
        (b"no checkpoint", None, {}, "unsupported_format"),
        (honest_zip(), honest_npz(), {}, "missing_preprocessing"),
        (honest_zip(), None, {"conversion": {"gamma": "auto"}}, "invalid_option"),
        (honest_zip(), images(num_train=1), DEFAULT_REQUEST, "invalid_data"),
        (honest_zip(), None, {"conversion": {"gamma": 7}}, "invalid_request"),
    ],
)
def test_it_is_refused_as_a_job_is(client, checkpoint, data, request_json, code):
    answers = []
    for path in ("/inspect", "/convert"):
        answers.append(send(client, path, checkpoint, data, request_json))
    assert answers[0].content == answers[1].content
    problem_of(answers[0], answers[1].status_code, code)


def test_a_tenant_has_so_many_open_questions(client):
    for _ in range(MAX_OPEN_INSPECTIONS):
        assert client.post("/inspect", json=ZOO).status_code == 202
    answer = client.post("/inspect", json=ZOO)
    problem_of(answer, 429, "too_many_inspections")
    assert int(answer.headers["retry-after"]) > 0


def test_what_jobs_have_measured_goes_with_the_question(client):
    store = client.service.store
    claims = JobClaims(store.engine, lease_seconds=30)
    for device, seconds in (("old", 9.0), ("new", 1.0), ("new", 3.0)):
        job = client.post("/convert", json=ZOO).json()["id"]
        result = {
            "architecture": "digits_resnet26",
            "device": device,
            "seconds_per_image": {"original": seconds, "momentum": 2 * seconds},
        }
        claim = claims.claim(job, worker="w")
        claims.record_progress(claim, progress=0.5, data={"images_per_second": 4 / seconds})
        claims.succeed(claim, result=result, files=[])
    asked = client.post("/inspect", json=ZOO).json()["id"]
    question = client.service.inspections.question(asked)
    assert question.speed == StepSpeed(
        original=2.0,
        momentum=4.0,
        refining=pytest.approx(1 / ((4 / 1 + 4 / 3) / 2)),
        device="new",
        num_jobs=2,
    )
