"""POST /convert: what is taken is kept and durable, what is refused leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import socket

import numpy as np
import pytest

from api.app import create_app
from momentum_core.checkpoint import CheckpointFacts
from tests.api.conftest import problem_of, served
from tests.corpus.image_files import folder_of, honest_png
from tests.corpus.npz_files import honest_npz
from tests.corpus.torch_files import honest_legacy, honest_zip
from worker.contract import intake
from worker.contract.job import JobState
from worker.contract.settings import Settings

PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
DEFAULT_REQUEST = {"preprocessing": PREPROCESSING}


def post(client, checkpoint: bytes | None = None, data: bytes | None = None, request=None):
    parts = {"checkpoint": checkpoint, "data": data}
    files = {name: (name, content) for name, content in parts.items() if content is not None}
    files["request"] = ("", json.dumps(request or {}))
    return client.post("/convert", files=files)


def images(num_train: int = 5, channels: int = 3, label: int = 9) -> bytes:
    file = io.BytesIO()
    pixels = np.zeros((num_train, 8, 8, channels), np.uint8)
    labels = np.full(num_train, label, np.int64)
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return file.getvalue()


def test_a_checkpoint_becomes_a_queued_job(client, service, stored_files):
    answer = post(client, honest_legacy(), request={"name": "mine"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (job["state"], job["name"], job["artifacts"]) == ("queued", "mine", [])

    kept = service.store.get(job["id"], tenant="default")
    assert kept.state == JobState.QUEUED
    [canonical] = stored_files()
    assert hashlib.sha256(canonical.read_bytes()).hexdigest() == canonical.name
    upload = service.store.upload(kept.checkpoint_id)
    assert upload.blob_sha256 == canonical.name
    facts = CheckpointFacts.from_json(upload.facts)
    assert (facts.architecture, facts.architecture_found) == ("cifar_resnet20", True)
    assert facts.sha256 == hashlib.sha256(honest_legacy()).hexdigest()


def test_a_zoo_name_becomes_a_queued_job(client, stored_files):
    answer = client.post("/convert", json={"source": {"zoo": "resnet50.IMAGENET1K_V1"}})
    assert answer.status_code == 202
    assert answer.json()["request"]["source"]["zoo"] == "resnet50.IMAGENET1K_V1"
    assert stored_files() == []


def test_a_zoo_entry_may_come_with_data_of_ones_own(client, stored_files):
    request = {"source": {"zoo": "digits_resnet26"}}
    assert post(client, data=images(channels=1), request=request).status_code == 202
    assert len(stored_files()) == 1


def test_data_is_kept_as_it_was_sent(client, stored_files):
    answer = post(client, honest_zip(), honest_npz(), DEFAULT_REQUEST)
    assert answer.status_code == 202, answer.json()
    assert hashlib.sha256(honest_npz()).hexdigest() in {path.name for path in stored_files()}


def test_an_archive_of_images_becomes_a_canonical_data_set(client, service, stored_files):
    files = {
        f"{part}/{name}/{index}.png": honest_png(index)
        for part in ("train", "test")
        for name in "0123456789"
        for index in range(2)
    }
    request = {"source": {"zoo": "digits_resnet26"}}
    answer = post(client, data=folder_of(files), request=request)
    assert answer.status_code == 202, answer.json()
    [canonical] = stored_files()
    arrays = np.load(canonical)
    assert {name: array.shape for name, array in arrays.items()} == {
        **dict.fromkeys(("x_train", "x_test"), (20, 8, 8, 1)),
        **dict.fromkeys(("y_train", "y_test"), (20,)),
    }
    job = service.store.get(answer.json()["id"], tenant="default")
    facts = service.store.upload(job.data_id).facts
    assert (facts["format"], facts["classes"]) == ("zip", list("0123456789"))
    assert answer.json()["sent"] == {"data": hashlib.sha256(folder_of(files)).hexdigest()}


def test_limits_of_the_intake_are_a_setting(settings):
    tight = settings.model_copy(update={"intake_limits": {"max_tensors": 100}})
    with served(create_app(tight)) as client:
        problem_of(post(client, honest_zip()), 422, "too_many_tensors")
    for wrong in ({"max_tensor": 1}, {"max_tensors": 0}):
        with pytest.raises(ValueError, match="limit"):
            Settings(intake_limits=wrong)


def test_a_machine_that_cannot_inspect_safely_takes_nothing(
    client, monkeypatch, stored_files, caplog
):
    broken = (
        "from worker.contract import inspector_host, seccomp\n"
        "def install():\n"
        "    raise OSError(1, 'EPERM')\n"
        "seccomp.install = install\n"
        "inspector_host.main()\n"
    )
    monkeypatch.setattr(intake, "COMMAND", (*intake.COMMAND[:-2], "-c", broken))
    detail = problem_of(post(client, honest_zip()), 503, "inspection_unavailable")
    assert "seccomp" not in detail
    assert "seccomp cannot be put up" in caplog.text
    assert stored_files() == []
    monkeypatch.undo()
    assert post(client, honest_zip()).status_code == 202


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        ("missing_source", {}),
        ("missing_source", {"data": honest_npz()}),
        ("ambiguous_source", {"checkpoint": b"x", "request": {"source": {"zoo": "resnet50"}}}),
        ("unknown_zoo_entry", {"request": {"source": {"zoo": "resnet51"}}}),
        (
            "unknown_architecture",
            {"checkpoint": honest_zip(), "request": {"architecture": "vgg16"}},
        ),
        (
            "architecture_mismatch",
            {"checkpoint": honest_zip(), "request": {"architecture": "cifar_resnet56"}},
        ),
        (
            "architecture_mismatch",
            {"request": {"source": {"zoo": "resnet50"}, "architecture": "resnet18"}},
        ),
        ("missing_preprocessing", {"checkpoint": honest_zip(), "data": images()}),
        (
            "invalid_data",
            {"checkpoint": honest_zip(), "data": images(channels=1), "request": DEFAULT_REQUEST},
        ),
        (
            "invalid_data",
            {"checkpoint": honest_zip(), "data": images(2), "request": DEFAULT_REQUEST},
        ),
        (
            "invalid_data",
            {"checkpoint": honest_zip(), "data": images(label=10), "request": DEFAULT_REQUEST},
        ),
        (
            "invalid_request",
            {
                "checkpoint": honest_zip(),
                "request": {"preprocessing": {"mean": [0.5], "std": [0.5]}},
            },
        ),
        ("invalid_request", {"checkpoint": honest_zip(), "request": {"gama": 1}}),
    ],
)
def test_what_does_not_go_together_is_refused(client, code, sent):
    assert len(problem_of(post(client, **sent), 422, code)) > 20


def test_other_bodies_are_refused(client):
    problem_of(client.post("/convert", content=b"x"), 415, "unsupported_content_type")
    problem_of(client.post("/convert", json=[1]), 422, "invalid_request")
    large = client.post(
        "/convert", content=b" " * 70_000, headers={"content-type": "application/json"}
    )
    problem_of(large, 413, "upload_too_large")


def test_too_large_a_body_is_refused_before_it_is_read(client):
    host, port = client.base_url.host, client.base_url.port
    head = (
        f"POST /convert HTTP/1.1\r\nHost: {host}\r\nContent-Length: {3 << 30}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"MOMENTUM_MAX_UPLOAD_BYTES" in answer


def test_a_full_disk_is_said_before_the_body_is_read(settings, stored_files):
    full = settings.model_copy(update={"min_free_bytes": 1 << 60})
    with served(create_app(full)) as client:
        problem_of(post(client, honest_zip()), 507, "storage_full")
        assert client.get("/readyz").status_code == 503
    assert stored_files() == []


def test_gamma_is_chosen_where_there_are_images_to_choose_by(client):
    auto = DEFAULT_REQUEST | {"conversion": {"gamma": "auto"}}
    answer = post(client, honest_legacy(), request=auto)
    assert "send some" in problem_of(answer, 422, "invalid_option")
    assert post(client, honest_legacy(), images(), auto).status_code == 202
    shipped = {"source": {"zoo": "digits_resnet26"}, "conversion": {"gamma": "auto"}}
    assert client.post("/convert", json=shipped).status_code == 202


def test_fine_tuning_takes_the_classes_of_the_data(client):
    tuned = DEFAULT_REQUEST | {"task": "finetune"}
    assert "there are none" in problem_of(
        post(client, honest_legacy(), request=tuned), 422, "invalid_option"
    )
    many = images(label=99)
    assert "10 classes" in problem_of(
        post(client, honest_legacy(), many, DEFAULT_REQUEST), 422, "invalid_data"
    )
    assert post(client, honest_legacy(), many, tuned).status_code == 202
    for data, words in (
        (images(label=0), "images of two classes"),
        (images(num_train=1), "there are 1 training images"),
    ):
        answer = post(client, honest_legacy(), data, tuned)
        assert words in problem_of(answer, 422, "invalid_data")


def test_without_labels_a_goal_of_accuracy_is_refused_before_any_training(client):
    file = io.BytesIO()
    pixels = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    np.savez(file, x_train=pixels, x_test=pixels)
    top1 = DEFAULT_REQUEST | {"refinement": {"goal": {"metric": "top1"}}}
    for data, request in (
        (file.getvalue(), top1),
        (images(), top1 | {"data": {"labelled": False}}),
        (None, top1 | {"data": {"synthetic": 64}}),
    ):
        answer = post(client, honest_legacy(), data, request)
        assert "no labels to count" in problem_of(answer, 422, "invalid_option")
    assert post(client, honest_legacy(), file.getvalue(), DEFAULT_REQUEST).status_code == 202
    unlabelled = DEFAULT_REQUEST | {"data": {"labelled": False}}
    # Labels that do not count need not be the network's.
    assert post(client, honest_legacy(), images(label=99), unlabelled).status_code == 202


def test_synthetic_images_take_the_place_of_data(client):
    request = {"data": {"synthetic": 64}}
    answer = post(client, honest_legacy(), request=request)
    assert "there are images" in problem_of(answer, 422, "missing_preprocessing")
    job = post(client, honest_legacy(), request=DEFAULT_REQUEST | request)
    assert (job.status_code, job.json()["request"]["data"]["synthetic"]) == (202, 64)
    answer = post(client, honest_legacy(), images(), DEFAULT_REQUEST | request)
    assert "leave one of them out" in problem_of(answer, 422, "ambiguous_source")
    answer = post(client, honest_legacy(), request=DEFAULT_REQUEST | {"data": {"synthetic": 1}})
    assert "from 8 to 100000, got 1" in problem_of(answer, 422, "invalid_request")
