"""Following a job and downloading what it made."""

from __future__ import annotations

import base64
import email
import hashlib
import os

import pytest

from tests.api.conftest import WEIGHTS, problem_of
from worker.contract.collector import Collector
from worker.contract.job import Artifact, JobError, Stage


@pytest.fixture
def job_id(client) -> str:
    return client.post("/convert", json={"source": {"zoo": "digits_resnet26"}}).json()["id"]


@pytest.fixture
def finished(client, claims, service, job_id, finish) -> str:
    finish(service, claims, job_id)
    return job_id


def test_a_job_shows_its_stage_and_asks_for_patience(client, claims, job_id):
    claim = claims.claim(job_id, worker="w")
    claims.enter_stage(claim, Stage.MEASURING, progress=0.1)
    answer = client.get(f"/jobs/{job_id}")
    assert (answer.json()["state"], answer.json()["stage"]) == ("running", "measuring")
    assert answer.json()["progress"] == 0.1
    assert answer.json()["started_at"].endswith("Z")
    assert int(answer.headers["retry-after"]) > 0


def test_an_unchanged_job_is_not_sent_twice(client, claims, job_id):
    tag = client.get(f"/jobs/{job_id}").headers["etag"]
    again = client.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    claims.claim(job_id, worker="w")
    assert client.get(f"/jobs/{job_id}", headers={"If-None-Match": tag}).status_code == 200


def test_events_are_paged_by_their_number(client, claims, job_id):
    claims.claim(job_id, worker="w")
    kinds = [event["kind"] for event in client.get(f"/jobs/{job_id}/events").json()["events"]]
    assert kinds == ["queued", "started"]
    rest = client.get(f"/jobs/{job_id}/events", params={"after": 1}).json()["events"]
    assert [(event["number"], event["data"]) for event in rest] == [(2, {"worker": "w"})]
    problem_of(client.get(f"/jobs/{job_id}/events?after=x"), 422, "invalid_request")


def test_weights_come_whole_with_their_digest(client, finished):
    answer = client.get(f"/jobs/{finished}/weights")
    digest = hashlib.sha256(WEIGHTS).digest()
    assert answer.content == WEIGHTS
    assert answer.headers["etag"] == f'"{digest.hex()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert "attachment" in answer.headers["content-disposition"]
    part = client.get(f"/jobs/{finished}/weights", headers={"Range": "bytes=7-13"})
    assert (part.status_code, part.content) == (206, b"weights")


def test_a_finished_job_lists_what_it_made(client, finished):
    job = client.get(f"/jobs/{finished}").json()
    assert (job["state"], job["result"], job["stage"]) == ("succeeded", {"a": 1}, None)
    [artifact] = job["artifacts"]
    assert client.get(artifact["url"]).content == WEIGHTS
    assert artifact["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert job["links"]["weights"] == f"/jobs/{finished}/weights"
    problem_of(client.get(f"/jobs/{finished}/artifacts/nope"), 404, "artifact_not_found")
    problem_of(client.get(f"/jobs/{finished}/artifacts/..%2F..%2Fmomentum.db"), 404, "not_found")


def test_the_bundle_and_the_original_form_are_files_of_their_own(client, claims, service, job_id):
    contents = {"bundle.zip": b"zip" * 99, "original.safetensors": b"o" * 99}
    files = []
    for name, content in contents.items():
        with service.files.temporary_folder() as folder:
            (folder / name).write_bytes(content)
            stored = service.files.put(folder / name)
        files.append(
            Artifact(name=name, sha256=stored.sha256, num_bytes=stored.num_bytes, media_type="x/y")
        )
    claims.succeed(claims.claim(job_id, worker="w"), result={}, files=files)
    links = client.get(f"/jobs/{job_id}").json()["links"]
    bundle = client.get(links["bundle"], headers={"Range": "bytes=0-2"})
    assert (bundle.status_code, bundle.content) == (206, b"zip")
    assert bundle.headers["etag"] == f'"{hashlib.sha256(contents["bundle.zip"]).hexdigest()}"'
    original = client.get(links["weights"], params={"form": "original"})
    assert original.content == contents["original.safetensors"]
    problem_of(client.get(links["weights"]), 404, "artifact_not_found")
    problem_of(client.get(links["weights"] + "?form=x"), 422, "invalid_request")


def test_files_of_an_unfinished_job_are_a_conflict(client, claims, job_id):
    answer = client.get(f"/jobs/{job_id}/weights")
    problem_of(answer, 409, "job_not_finished")
    assert int(answer.headers["retry-after"]) > 0
    claims.fail(
        claims.claim(job_id, worker="w"), JobError(code="zoo_unavailable", message="put it there")
    )
    detail = problem_of(client.get(f"/jobs/{job_id}/report"), 409, "job_failed")
    assert "put it there" in detail
    assert client.get(f"/jobs/{job_id}").json()["error"] == {
        "code": "zoo_unavailable",
        "message": "put it there",
    }


@pytest.mark.parametrize("path", ["", "/events", "/weights", "/report", "/artifacts/x"])
def test_an_unknown_job_is_not_found(client, path):
    for name in ("0" * 32, "x", "a%00b", "A" * 32):
        problem_of(client.get(f"/jobs/{name}{path}"), 404, "job_not_found")


def test_an_error_of_the_service_tells_nothing_of_its_inside(client, service, monkeypatch):
    monkeypatch.setattr(service.store, "look_at", lambda *_, **__: 1 / 0)
    answer = client.get(f"/jobs/{'0' * 32}")
    assert "division" not in problem_of(answer, 500, "internal_error")


def test_a_wrong_method_names_the_right_one(client):
    answer = client.put("/convert")
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_the_zoo_lists_every_entry(client):
    zoo = client.get("/zoo").json()
    assert zoo["entries"][0]["name"] == "digits_resnet26.DIGITS"
    assert zoo["entries"][0]["is_shipped"]
    assert zoo["entries"][0]["has_data"]
    assert "resnet152.IMAGENET1K_V2" in [entry["name"] for entry in zoo["entries"]]
    assert "cifar_resnet110" in zoo["architectures"]


def test_readiness_names_the_part_that_is_away(client):
    assert client.get("/healthz").json()["status"] == "ok"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert (checks["database"], checks["storage"]) == ("ok", "ok")
    assert checks["broker"].startswith("failed")


def test_every_operation_is_documented(client):
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) >= 9
    assert all(operation["summary"] and operation["description"] for operation in operations)
    body = document["paths"]["/convert"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}


@pytest.mark.parametrize("held", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
def test_a_file_that_the_client_has_is_not_sent_again(client, finished, held):
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    headers = {"If-None-Match": held.format(digest)}
    answer = client.get(f"/jobs/{finished}/weights", headers=headers)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["repr-digest"]
    other = client.get(f"/jobs/{finished}/weights", headers={"If-None-Match": '"x", W/"y"'})
    assert (other.status_code, other.content) == (200, WEIGHTS)


def test_head_tells_what_get_would_send(client, finished, job_id):
    for path in (f"/jobs/{finished}/weights", f"/jobs/{finished}", "/jobs", "/healthz", "/zoo"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        for name in ("content-length", "content-type", "etag"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
    # RFC 9110 section 14.2: Range is for GET only.
    whole = client.head(f"/jobs/{finished}/weights", headers={"Range": "bytes=0-9"})
    assert (whole.status_code, whole.headers["content-length"]) == (200, "7000")
    assert client.head("/jobs/unknown").status_code == 404
    stream = {"Accept": "text/event-stream"}
    assert client.head(f"/jobs/{job_id}/events", headers=stream).status_code == 200
    assert client.head("/convert").status_code == 405


def test_a_range_that_is_not_there_is_a_problem(client, finished):
    path = f"/jobs/{finished}/weights"
    beyond = client.get(path, headers={"Range": "bytes=7000-"})
    assert "7000 bytes" in problem_of(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == "bytes */7000"
    problem_of(client.get(path, headers={"Range": "bytes=9-3"}), 400, "malformed_range")
    # A part of another version is no part: everything comes anew.
    other = client.get(path, headers={"Range": "bytes=0-9", "If-Range": '"x"'})
    assert (other.status_code, other.content) == (200, WEIGHTS)


@pytest.mark.parametrize("unit", ["lines=0-9", "bytes 0-9", "0-9", "bits=0-"])
def test_a_range_of_another_unit_is_ignored(client, finished, unit):
    answer = client.get(f"/jobs/{finished}/weights", headers={"Range": unit})
    assert (answer.status_code, answer.content) == (200, WEIGHTS)


def test_of_several_ranges_those_inside_are_sent(client, finished):
    path = f"/jobs/{finished}/weights"

    def get(ranges: str):
        return client.get(path, headers={"Range": f"bytes={ranges}"})

    one = get("7000-7010, 0-6")
    assert (one.status_code, one.content) == (206, b"weights")
    assert one.headers["content-range"] == "bytes 0-6/7000"
    problem_of(get("7000-7010,9999-,-0"), 416, "range_not_satisfiable")
    assert get("6993-99999").headers["content-range"] == "bytes 6993-6999/7000"
    assert get("-7").content == get("6993-").content == b"weights"
    assert get("-99999").content == WEIGHTS
    merged = get("0-3,2-6")
    assert (merged.content, merged.headers["content-range"]) == (b"weights", "bytes 0-6/7000")
    for wrong in ("9-3", "x", "", "1-2-3", "0-6,x"):
        problem_of(get(wrong), 400, "malformed_range")
    # More than anybody needs: everything, rather than the work of putting it together.
    assert get(",".join(f"{each}-{each}" for each in range(0, 1000, 2))).status_code == 200


def test_parts_come_in_one_answer_with_what_each_is(client, finished):
    headers = {"Range": "bytes=0-6,14-20,-7"}
    answer = client.get(f"/jobs/{finished}/weights", headers=headers)
    assert answer.status_code == 206
    assert len(answer.content) == int(answer.headers["content-length"])
    kind = answer.headers["content-type"]
    message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\n\n" + answer.content)
    assert message.get_content_type() == "multipart/byteranges"
    parts = message.get_payload()
    assert [part["Content-Range"] for part in parts] == [
        "bytes 0-6/7000",
        "bytes 14-20/7000",
        "bytes 6993-6999/7000",
    ]
    assert {part.get_payload() for part in parts} == {"weights"}
    assert {part.get_content_type() for part in parts} == {"application/vnd.safetensors"}


def test_a_download_may_be_bound_to_a_version(client, finished):
    """RFC 9110 section 13.2.2: in this order."""
    path = f"/jobs/{finished}/weights"
    got = client.get(path)
    tag, modified = got.headers["etag"], got.headers["last-modified"]
    before, after = "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"

    def status(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = client.get(path, headers=sent)
        if answer.status_code == 412:
            problem_of(answer, 412, "precondition_failed")
        return answer.status_code

    assert status(If_Match=tag) == status(If_Match="*") == status(If_Match=f'"x", {tag}') == 200
    assert status(If_Match='"x"') == status(If_Match=f"W/{tag}") == 412
    assert status(If_Match='"x"', Range="bytes=0-6") == 412
    assert status(If_Match=tag, Range="bytes=0-6") == 206
    assert status(If_Unmodified_Since=before) == 412
    assert status(If_Unmodified_Since=after) == status(If_Unmodified_Since=modified) == 200
    assert status(If_Unmodified_Since="nonsense") == 200
    assert status(If_Match=tag, If_Unmodified_Since=before) == 200
    assert status(If_Match=tag, If_None_Match=tag) == 304
    assert status(If_Match='"x"', If_None_Match=tag) == 412
    assert status(If_Modified_Since=modified) == 304
    assert status(If_Modified_Since=before) == 200
    assert status(If_None_Match='"x"', If_Modified_Since=modified) == 200
    assert status(Range="bytes=0-6", If_Range=modified) == 206
    assert status(Range="bytes=0-6", If_Range=before) == 200
    assert client.head(path, headers={"If-Match": '"x"'}).status_code == 412


def test_a_file_that_was_removed_meanwhile_is_said_to_be_gone(client, service, finished):
    """Between the look into the record and the opening: the job was deleted or has expired."""
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    service.files.path_of(digest).unlink()
    problem_of(client.get(f"/jobs/{finished}/weights"), 404, "artifact_not_found")


def test_a_download_that_runs_arrives_whole_whatever_becomes_of_its_job(
    client, claims, service, job_id
):
    content = os.urandom(30 << 20)
    with service.files.temporary_folder() as folder:
        (folder / "w").write_bytes(content)
        stored = service.files.put(folder / "w")
    file = Artifact(
        name="model.safetensors",
        sha256=stored.sha256,
        num_bytes=stored.num_bytes,
        media_type="x/y",
    )
    claims.succeed(claims.claim(job_id, worker="w"), result={}, files=[file])
    path = service.files.path_of(stored.sha256)
    os.utime(path, (1, 1))
    with client.stream("GET", f"/jobs/{job_id}/weights") as answer:
        pieces = answer.iter_bytes()
        received = next(pieces)
        assert client.delete(f"/jobs/{job_id}").status_code == 204
        assert Collector(service.store.engine, service.files).collect() == 1
        assert not path.exists()
        received += b"".join(pieces)
    assert hashlib.sha256(received).hexdigest() == stored.sha256
    problem_of(client.get(f"/jobs/{job_id}/weights"), 404, "job_not_found")


@pytest.fixture
def reported(client, claims, service, job_id) -> str:
    """A job whose report is there in its three forms."""
    claim = claims.claim(job_id, worker="w")
    files = []
    for name, media_type in (
        ("report.json", "application/json"),
        ("report.html", "text/html"),
        ("report.csv", "text/csv"),
    ):
        with service.files.temporary_folder() as folder:
            (folder / name).write_text(f"the report as {media_type}")
            stored = service.files.put(folder / name)
        files.append(
            Artifact(
                name=name,
                sha256=stored.sha256,
                num_bytes=stored.num_bytes,
                media_type=media_type,
            )
        )
    claims.succeed(claim, result={"a": 1}, files=files)
    return job_id


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/csv", "text/csv"),
        ("text/*", "text/html"),
        ("text/html;q=0.2, application/json;q=0.9", "application/json"),
        ("text/html;q=0, */*;q=0.1", "application/json"),
        ("image/png", "application/json"),
        ("text/html;q=nonsense, text/csv;q=0.1", "text/csv"),
    ],
)
def test_the_report_comes_in_the_form_that_is_liked_best(client, reported, accept, media_type):
    headers = {"Accept": accept} if accept is not None else {}
    answer = client.get(f"/jobs/{reported}/report", headers=headers)
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.text == f"the report as {media_type}"
    assert answer.headers["vary"] == "Accept"


def test_page_and_table_have_addresses_of_their_own(client, reported):
    page = client.get(f"/jobs/{reported}/report.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-disposition"].startswith("inline")
    policy = page.headers["content-security-policy"]
    # Its own style, and nothing else: no script, no request.
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    assert "script-src" not in policy
    table = client.get(f"/jobs/{reported}/report.csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["content-security-policy"].startswith("default-src 'none'; frame")
