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
from tests.corpus.case import MARKER
from tests.corpus.cases import CASES
from tests.corpus.npz_files import honest_npz
from tests.corpus.torch_files import honest_legacy, honest_zip
from worker.contract.job import JobState

PREPROCESSING = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
DEFAULT_REQUEST = {"preprocessing": PREPROCESSING}
# One of each code and kind; all of them go through the reader in tests/momentum_core/checkpoint.
REFUSED = {(case.kind, case.code): case for case in CASES}.values()


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
    assert answer.json()["request"]["source"] == {"zoo": "resnet50.IMAGENET1K_V1"}
    assert stored_files() == []


def test_a_zoo_entry_may_come_with_data_of_ones_own(client, stored_files):
    request = {"source": {"zoo": "digits_resnet26"}}
    assert post(client, data=images(channels=1), request=request).status_code == 202
    assert len(stored_files()) == 1


def test_data_is_kept_as_it_was_sent(client, stored_files):
    answer = post(client, honest_zip(), honest_npz(), DEFAULT_REQUEST)
    assert answer.status_code == 202, answer.json()
    assert hashlib.sha256(honest_npz()).hexdigest() in {path.name for path in stored_files()}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_hostile_file_is_refused_with_its_code_and_runs_nothing(client, stored_files, case):
    if case.kind == "checkpoint":
        answer = post(client, case.build())
    else:
        answer = post(client, honest_zip(), case.build(), DEFAULT_REQUEST)
    problem_of(answer, case.status, case.code)
    assert not MARKER.exists()
    assert stored_files() == []
    assert client.get("/healthz").status_code == 200


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
