"""`Content-Digest`: what was changed on its way is refused, and what arrived is said."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from api.content_digest import parse_content_digest
from api.problems import Problem
from tests.api.conftest import problem_of
from tests.corpus.npz_files import honest_npz
from tests.corpus.torch_files import honest_legacy

BOUNDARY = "boundary"
REQUEST = json.dumps({"preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3}}).encode()


def stated(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def flipped(content: bytes) -> bytes:
    """One bit of the weights is another; a legacy file has no checksum that would show it."""
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def body(checkpoint: bytes, digest: str | None = None, data: bytes | None = None) -> bytes:
    parts = [("checkpoint", checkpoint, digest), ("request", REQUEST, None)]
    if data is not None:
        parts.append(("data", data, stated(data)))
    made = b""
    for name, content, header in parts:
        made += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        made += f"\r\nContent-Digest: {header}".encode() if header else b""
        made += b"\r\n\r\n" + content + b"\r\n"
    return made + f"--{BOUNDARY}--\r\n".encode()


def send(client, content: bytes, digest: str | None = None):
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    if digest is not None:
        headers["Content-Digest"] = digest
    return client.post("/convert", content=content, headers=headers)


def test_what_arrives_as_it_was_sent_is_taken_and_its_digest_said(client):
    content = body(honest_legacy(), stated(honest_legacy()), honest_npz())
    answer = send(client, content, stated(content))
    assert answer.status_code == 202, answer.json()
    sent = {
        "checkpoint": hashlib.sha256(honest_legacy()).hexdigest(),
        "data": hashlib.sha256(honest_npz()).hexdigest(),
    }
    assert answer.json()["sent"] == sent
    assert client.get(answer.headers["location"]).json()["sent"] == sent


def test_a_zoo_job_was_sent_nothing(client):
    answer = client.post("/convert", json={"source": {"zoo": "resnet50"}})
    assert answer.json()["sent"] == {}


def test_a_flipped_bit_in_the_body_is_found(client, stored_files):
    content = body(flipped(honest_legacy()))
    assert send(client, content).status_code == 202
    kept = stored_files()
    answer = send(client, content, stated(body(honest_legacy())))
    detail = problem_of(answer, 422, "checksum_mismatch")
    assert "the request" in detail
    assert hashlib.sha256(content).hexdigest() in detail
    assert stored_files() == kept


def test_a_flipped_bit_in_a_part_is_found(client, stored_files):
    answer = send(client, body(flipped(honest_legacy()), stated(honest_legacy())))
    assert "the part 'checkpoint'" in problem_of(answer, 422, "checksum_mismatch")
    assert stored_files() == []


def test_a_json_body_has_its_digest_too(client):
    content = b'{"source": {"zoo": "resnet50"}}'
    headers = {"Content-Type": "application/json", "Content-Digest": stated(content)}
    assert client.post("/convert", content=content, headers=headers).status_code == 202
    answer = client.post("/convert", content=content + b" ", headers=headers)
    problem_of(answer, 422, "checksum_mismatch")


@pytest.mark.parametrize(
    "header",
    [
        "sha-256=abc",
        "sha-256=:abc:",
        "sha-256=::",
        "sha-256",
        "sha-256=:" + "A" * 1000 + ":",
        f"{stated(b'')}x",
        "md5=:x:, sha-256=1",
        "SHA-256=:%%%%:",
    ],
)
def test_what_is_no_digest_is_refused(header, client):
    problem_of(send(client, body(honest_legacy()), header), 400, "malformed_digest")
    problem_of(send(client, body(honest_legacy(), header)), 400, "malformed_digest")


def test_other_algorithms_and_other_headers_are_passed_over():
    digest = hashlib.sha256(b"x").digest()
    assert parse_content_digest(None) is None
    assert parse_content_digest("sha-512=:AAAA:, unixsum=1") is None
    assert parse_content_digest(f"sha-512=:AAAA:, {stated(b'x')}") == digest
    with pytest.raises(Problem):
        parse_content_digest("sha-256=:AAAA:")
