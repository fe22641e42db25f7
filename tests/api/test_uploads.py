"""Files that are sent ahead of a request."""

from __future__ import annotations

import base64
import hashlib

import pytest

from api.app import create_app
from tests.api.conftest import problem_of, served
from tests.api.test_convert import PREPROCESSING, images
from tests.corpus.torch_files import honest_zip

UNKNOWN = "0" * 32


def send(client, content: bytes, **headers: str):
    return client.post("/uploads", content=content, headers=headers)


def test_a_file_that_was_sent_ahead_is_converted_as_often_as_it_is_named(
    client, service, stored_files
):
    content = honest_zip()
    answer = send(client, content)
    upload = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/uploads/{upload['id']}"
    assert upload["num_bytes"] == len(content)
    assert upload["sha256"] == hashlib.sha256(content).hexdigest()
    assert client.get(answer.headers["location"]).json() == upload
    for _ in range(2):
        job = client.post("/convert", json={"source": {"upload": upload["id"]}})
        assert job.status_code == 202, job.text
        assert job.json()["sent"] == {"checkpoint": upload["sha256"]}
    assert client.delete(answer.headers["location"]).status_code == 204
    problem_of(client.get(answer.headers["location"]), 404, "upload_not_found")
    problem_of(client.delete(answer.headers["location"]), 404, "upload_not_found")
    kept = service.store.get(job.json()["id"], tenant="default")
    [canonical] = stored_files()
    assert service.store.upload(kept.checkpoint_id).blob_sha256 == canonical.name


def test_data_may_be_sent_ahead_too(client):
    checkpoint, data = (send(client, each).json()["id"] for each in (honest_zip(), images()))
    request = {
        "source": {"upload": checkpoint},
        "data": {"upload": data},
        "preprocessing": PREPROCESSING,
    }
    job = client.post("/convert", json=request)
    assert job.status_code == 202, job.text
    assert set(job.json()["sent"]) == {"checkpoint", "data"}
    # It is kept for another request.
    assert client.get(f"/uploads/{data}").status_code == 200


def test_a_hostile_file_is_refused_when_it_is_named_and_stays_harmless(client, stored_files):
    upload = send(client, b"\x80\x02cposix\nsystem\n").json()
    problem = client.post("/convert", json={"source": {"upload": upload["id"]}})
    assert problem.status_code in (415, 422)
    assert [path.name for path in stored_files()] == [upload["id"]]


@pytest.mark.parametrize("name", [UNKNOWN, "../../etc/passwd", "", "A" * 5000])
@pytest.mark.parametrize("what", ["source", "data"])
def test_an_upload_that_is_not_there(client, what, name):
    request = {"source": {"zoo": "digits_resnet26"}} | {what: {"upload": name}}
    detail = problem_of(client.post("/convert", json=request), 404, "upload_not_found")
    assert "POST /uploads" in detail


def test_a_source_is_one_thing(client):
    request = {"source": {"zoo": "digits_resnet26", "upload": UNKNOWN}}
    problem_of(client.post("/convert", json=request), 422, "invalid_request")
    problem_of(client.post("/convert", json={"source": {}}), 422, "invalid_request")
    upload = send(client, honest_zip()).json()["id"]
    parts = {
        "checkpoint": ("c", honest_zip()),
        "request": ("", f'{{"source": {{"upload": "{upload}"}}}}'),
    }
    problem_of(client.post("/convert", files=parts), 422, "ambiguous_source")


@pytest.mark.parametrize("digest", [b"right", b"wrong"])
def test_the_stated_digest_is_compared(client, stored_files, digest):
    stated = base64.b64encode(hashlib.sha256(digest).digest()).decode()
    answer = send(client, b"right", **{"Content-Digest": f"sha-256=:{stated}:"})
    if digest == b"right":
        assert answer.status_code == 201
    else:
        problem_of(answer, 422, "checksum_mismatch")
        assert stored_files() == []


def test_what_cannot_be_kept_is_refused(settings, stored_files):
    application = create_app(settings.model_copy(update={"max_upload_bytes": 1000}))
    with served(application) as client:
        problem_of(send(client, b"x" * 1001), 413, "upload_too_large")
        problem_of(client.post("/uploads", content=iter([b"x" * 600] * 2)), 413, "upload_too_large")
        form = client.post("/uploads", files={"checkpoint": ("c", b"x")})
        problem_of(form, 415, "unsupported_content_type")
    assert stored_files() == []


def test_an_upload_expires(settings):
    application = create_app(settings.model_copy(update={"upload_hours": 1e-9}))
    with served(application) as client:
        upload = send(client, honest_zip()).json()
        problem_of(client.get(f"/uploads/{upload['id']}"), 404, "upload_not_found")
        request = {"source": {"upload": upload["id"]}}
        problem_of(client.post("/convert", json=request), 404, "upload_not_found")
