"""Names that only a worker knows, in POST /convert and /inspect; a thread answers as the worker."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager

import pytest
import timm
from safetensors.torch import save

from api.app import create_app
from momentum_core.errors import MomentumError
from tests.api.conftest import problem_of, served
from tests.api.test_convert import images
from tests.worker.local_hub import COMMIT, serving_hub
from tests.worker.test_library_zoo import CONFIGURATION, REPOSITORY, small_weights
from worker.contract.job import JobError
from worker.inspection import answer_any
from worker.library_zoo import Hub

ARCHITECTURE = "timm:regnetx_002"


@contextmanager
def answering(inspections, hub):
    ended, asked = threading.Event(), []

    def answer() -> None:
        while not ended.wait(0.01):
            for each in inspections.waiting():
                question = inspections.question(each)
                asked.append(question)
                try:
                    inspections.answer(each, answer_any(question, hub))
                except MomentumError as error:
                    inspections.refuse(each, JobError(code=error.code, message=str(error)))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    files = {
        "config.json": json.dumps(CONFIGURATION).encode(),
        "model.safetensors": small_weights(),
    }
    with serving_hub(REPOSITORY, files) as server:
        yield Hub(url=server.url, folder=None, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def client(application, hub):
    inspections = application.state.service.inspections
    with answering(inspections, hub) as asked, served(application) as client:
        client.asked = asked
        yield client


def send(client, checkpoint: bytes, request: dict, data: bytes | None = None):
    files = {"checkpoint": ("c", checkpoint), "request": ("", json.dumps(request))}
    if data is not None:
        files["data"] = ("d", data)
    return client.post("/convert", files=files)


def test_a_checkpoint_of_a_librarys_architecture(client, service):
    answer = send(client, small_weights(), {"architecture": ARCHITECTURE})
    assert answer.status_code == 202, answer.text
    job = service.store.get(answer.json()["id"], tenant="default")
    facts = service.store.upload(job.checkpoint_id).facts
    assert (facts["architecture"], facts["num_classes"]) == (ARCHITECTURE, 5)
    # What a name means is not asked twice.
    assert send(client, small_weights(), {"architecture": ARCHITECTURE}).status_code == 202
    assert [one.name for one in client.asked] == [ARCHITECTURE]


def test_weights_that_do_not_fit_it_are_refused(client):
    other = save(timm.create_model("resnet18", num_classes=5).state_dict())
    answer = send(client, other, {"architecture": ARCHITECTURE})
    assert "stem.conv.weight" in problem_of(answer, 422, "architecture_mismatch")
    for name in ("timm:no_such_model", "torchvision:resnet", "other:x", "own:x", ":"):
        answer = send(client, small_weights(), {"architecture": name})
        problem_of(answer, 422, "unknown_architecture")
    answer = send(client, small_weights(), {"architecture": "timm:" + "x" * 300})
    assert "250" in problem_of(answer, 422, "unknown_architecture")


def test_data_is_held_against_the_architectures_input(client):
    request = {
        "architecture": ARCHITECTURE,
        "preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3},
    }
    answer = send(client, small_weights(), request, images(channels=1, label=1))
    assert "takes 3" in problem_of(answer, 422, "invalid_data")
    assert send(client, small_weights(), request, images(label=1)).status_code == 202


def test_a_name_of_a_hub_is_pinned_in_the_jobs_request(client):
    answer = client.post("/convert", json={"source": {"zoo": f"hf:{REPOSITORY}"}})
    assert answer.status_code == 202, answer.text
    pinned = f"hf:{REPOSITORY}@{COMMIT}"
    assert answer.json()["request"]["source"]["zoo"] == pinned
    assert client.post("/convert", json={"source": {"zoo": pinned}}).status_code == 202
    answer = client.post("/convert", json={"source": {"zoo": "hf:lab/other"}})
    problem_of(answer, 503, "zoo_unavailable")
    answer = client.post("/convert", json={"source": {"zoo": "timm:resnet50.no_such_tag"}})
    problem_of(answer, 422, "unknown_zoo_entry")
    other = {"source": {"zoo": f"hf:{REPOSITORY}"}, "architecture": "resnet18"}
    problem_of(client.post("/convert", json=other), 422, "architecture_mismatch")


def test_an_inspection_of_a_hubs_weights(client):
    request = {"source": {"zoo": f"hf:{REPOSITORY}"}, "measurement": {"image_size": 64}}
    answer = client.post("/inspect", json=request)
    assert answer.status_code in (200, 202), answer.text
    assert client.asked[-1].architecture == ARCHITECTURE


def test_without_an_answer_it_is_to_be_tried_again(settings):
    application = create_app(settings.model_copy(update={"inspect_seconds": 0.0}))
    with served(application) as client:
        answer = send(client, small_weights(), {"architecture": ARCHITECTURE})
        problem_of(answer, 503, "inspection_not_answered")
        assert int(answer.headers["retry-after"]) > 0
        # The catalogue's names need no worker.
        answer = client.post("/convert", json={"source": {"zoo": "resnet50"}})
        assert answer.status_code == 202
