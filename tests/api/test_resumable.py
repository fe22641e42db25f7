"""Files that are sent in pieces, by the tus protocol 1.0."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import socket
import threading
import time
from contextlib import closing
from email.utils import parsedate_to_datetime

import pytest

from tests.api.conftest import problem_of
from tests.corpus.torch_files import honest_zip
from worker.contract.key_store import Scope

TUS = {"Tus-Resumable": "1.0.0"}
TYPE = {"Content-Type": "application/offset+octet-stream"}
CONTENT = bytes(range(256)) * 40


def begin(client, num_bytes: int, **headers: str) -> str:
    answer = client.post("/uploads", headers=TUS | {"Upload-Length": str(num_bytes)} | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-offset"] == "0"
    return answer.headers["location"]


def send(client, url: str, piece: bytes, offset: int, **headers: str):
    return client.patch(
        url, content=piece, headers=TUS | TYPE | {"Upload-Offset": str(offset)} | headers
    )


def offset_of(client, url: str) -> int:
    answer = client.head(url, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def checksum(piece: bytes, algorithm: str = "sha256") -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, piece).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def test_the_service_says_what_it_can(client, settings):
    headers = client.options("/uploads").headers
    assert headers["tus-version"] == "1.0.0"
    assert set(headers["tus-extension"].split(",")) == {
        "creation",
        "expiration",
        "checksum",
        "termination",
    }
    assert headers["tus-max-size"] == str(settings.max_upload_bytes)
    assert "sha1" in headers["tus-checksum-algorithm"]


def test_pieces_become_a_file_that_a_request_can_name(client):
    content = honest_zip()
    metadata = {"Upload-Metadata": "filename " + base64.b64encode(b"x.pt").decode()}
    url = begin(client, len(content), **metadata)
    third = len(content) // 3
    for start in (0, third, 2 * third):
        assert offset_of(client, url) == start
        view = client.get(url).json()
        assert (view["num_bytes"], view["num_received"]) == (len(content), start)
        assert view["sha256"] is None
        named = {"source": {"upload": view["id"]}}
        problem_of(client.post("/convert", json=named), 409, "upload_incomplete")
        piece = content[start:] if start == 2 * third else content[start : start + third]
        answer = send(client, url, piece, start, **checksum(piece))
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["upload-offset"] == str(start + len(piece))
    head = client.head(url, headers=TUS)
    assert head.headers["upload-length"] == head.headers["upload-offset"] == str(len(content))
    assert parsedate_to_datetime(head.headers["upload-expires"]).timestamp() > time.time()
    view = client.get(url).json()
    assert view["sha256"] == hashlib.sha256(content).hexdigest()
    assert view["num_received"] == len(content)
    assert client.post("/convert", json={"source": {"upload": view["id"]}}).status_code == 202
    problem_of(send(client, url, b"", len(content)), 409, "upload_complete")


def test_metadata_comes_back_as_it_was_sent(client):
    given = "filename eC5wdA==,private"
    url = begin(client, 5, **{"Upload-Metadata": given})
    assert client.head(url).headers["upload-metadata"] == given


def test_a_piece_must_begin_at_the_end(client):
    url = begin(client, len(CONTENT))
    send(client, url, CONTENT[:100], 0)
    for wrong in (0, 99, 101):
        answer = send(client, url, CONTENT[wrong:], wrong)
        problem_of(answer, 409, "offset_conflict")
        assert answer.headers["upload-offset"] == "100"
    assert offset_of(client, url) == 100


def test_a_changed_piece_leaves_nothing_behind(client):
    url = begin(client, len(CONTENT))
    send(client, url, CONTENT[:100], 0)
    for algorithm in ("sha256", "sha1"):
        stated = checksum(b"other", algorithm)
        problem_of(send(client, url, CONTENT[100:], 100, **stated), 460, "chunk_checksum_mismatch")
        assert offset_of(client, url) == 100
    assert send(client, url, CONTENT[100:], 100, **checksum(CONTENT[100:], "sha1")).is_success


def test_more_than_was_announced_is_refused(client):
    url = begin(client, 100)
    problem_of(send(client, url, CONTENT[:101], 0), 413, "upload_too_large")
    assert offset_of(client, url) == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload-Length": "0"}, 422, "truncated_file"),
        ({"Upload-Length": "-1"}, 400, "malformed_header"),
        ({"Upload-Length": "1e3"}, 400, "malformed_header"),
        ({"Upload-Length": "9" * 15}, 413, "upload_too_large"),
        ({"Upload-Length": "9" * 5000}, 400, "malformed_header"),
        ({"Upload-Defer-Length": "1"}, 400, "malformed_header"),
        ({"Upload-Length": "5", "Tus-Resumable": "0.2.2"}, 412, "tus_version"),
        ({"Upload-Length": "5", "Upload-Metadata": "name ?"}, 400, "malformed_header"),
        ({"Upload-Length": "5", "Upload-Metadata": "n " + "A" * 5000}, 400, "malformed_header"),
    ],
)
def test_what_cannot_begin_is_refused(client, stored_files, headers, status, code):
    problem_of(client.post("/uploads", headers=TUS | headers), status, code)
    assert client.get("/limits").json()["used"]["stored_bytes"] == 0
    assert stored_files() == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Tus-Resumable": "2.0.0"}, 412, "tus_version"),
        ({"Content-Type": "application/octet-stream"}, 415, "unsupported_content_type"),
        ({"Upload-Offset": "x"}, 400, "malformed_header"),
        ({"Upload-Checksum": "md5 AAAA"}, 400, "malformed_digest"),
        ({"Upload-Checksum": "sha256 AAAA"}, 400, "malformed_digest"),
    ],
)
def test_a_piece_with_wrong_headers_is_refused(client, headers, status, code):
    url = begin(client, 5)
    problem_of(send(client, url, b"12345", 0, **headers), status, code)
    assert offset_of(client, url) == 0


def test_a_file_on_its_way_counts_whole_and_can_be_dropped(application, client, stored_files):
    url = begin(client, 5000)
    send(client, url, b"x" * 1000, 0)
    assert client.get("/limits").json()["used"]["stored_bytes"] == 5000
    assert client.delete(url, headers=TUS).status_code == 204
    assert stored_files() == []
    problem_of(client.get(url), 404, "upload_not_found")
    problem_of(send(client, url, b"x", 1000), 404, "upload_not_found")


def test_what_never_arrives_expires(service, client, stored_files):
    url = begin(client, 5000)
    send(client, url, b"x" * 1000, 0)
    service.partial_uploads._keep_seconds = -1
    begin(client, 7000)
    assert service.uploads.drop_expired() == 1
    assert offset_of(client, url) == 1000


def test_only_one_request_writes_at_a_time(client, service):
    url = begin(client, 10)
    upload_id = url.rpartition("/")[2]
    with service.partial_uploads.writing(upload_id, tenant="default"):
        answer = send(client, url, b"x", 0)
        problem_of(answer, 423, "upload_locked")
        assert int(answer.headers["retry-after"]) > 0
    assert send(client, url, b"x", 0).is_success


def test_a_last_piece_whose_request_was_killed_is_found_to_be_there(client, service):
    """Killed between the last byte and the record: whoever asks next completes it."""
    url = begin(client, 5)
    upload_id = url.rpartition("/")[2]
    with service.partial_uploads.writing(upload_id, tenant="default") as writing:
        os.write(writing.descriptor, b"12345")
        # Whoever has it open may cut it off yet.
        assert client.get(url).json()["sha256"] is None
    view = client.get(url).json()
    assert view["sha256"] == hashlib.sha256(b"12345").hexdigest()


def cut(client, url: str, piece: bytes, offset: int, length: int, **headers: str) -> None:
    """Send `piece` of a request that says it has `length` bytes, and break the connection."""
    host, port = client.base_url.host, client.base_url.port
    lines = TUS | TYPE | {"Upload-Offset": str(offset), "Content-Length": str(length)} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection((host, port)) as connection:
        connection.sendall(f"PATCH {url} HTTP/1.1\r\nHost: {host}:{port}\r\n{head}\r\n".encode())
        connection.sendall(piece)
        # An answer that is begun only once the connection is broken finds nothing of it.
        for _ in range(2400):
            if offset_of(client, url) > offset:
                break
            time.sleep(0.05)
        time.sleep(0.1)


def settled(client, url: str) -> int:
    """Return the offset once the server has seen that the connection broke."""
    for _ in range(2400):
        answer = client.head(url)
        probe = send(client, url, b"", int(answer.headers["upload-offset"]))
        if probe.status_code != 423:
            return offset_of(client, url)
        time.sleep(0.05)
    raise AssertionError("the upload stays locked")


def test_what_arrived_before_the_connection_broke_is_kept(client):
    url = begin(client, len(CONTENT))
    cut(client, url, CONTENT[:3000], 0, len(CONTENT))
    assert settled(client, url) == 3000
    cut(client, url, CONTENT[3000:4000], 3000, 2000, **checksum(CONTENT[3000:5000]))
    assert settled(client, url) == 3000  # unchecked: it may be wrong
    assert send(client, url, CONTENT[3000:], 3000).is_success
    assert client.get(url).json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_nobody_finishes_a_piece_that_is_not_checked_yet(client):
    """All bytes are there, and their checksum is wrong; who asks meanwhile sees no whole file."""
    url = begin(client, 1000)
    host, port = client.base_url.host, client.base_url.port
    given = TUS | TYPE | {"Upload-Offset": "0", "Transfer-Encoding": "chunked"} | checksum(b"other")
    lines = [f"PATCH {url} HTTP/1.1", f"Host: {host}:{port}"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    with socket.create_connection((host, port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        time.sleep(0.3)
        assert client.get(url).json()["sha256"] is None
        assert "upload-offset" in client.head(url).headers
        connection.sendall(b"0\r\n\r\n")
        connection.settimeout(10)
        assert b" 460 " in connection.recv(65536)
    assert offset_of(client, url) == 0
    assert send(client, url, b"y" * 1000, 0).is_success
    assert client.get(url).json()["sha256"] == hashlib.sha256(b"y" * 1000).hexdigest()


def test_a_file_that_was_dropped_meanwhile_does_not_come_back(client, service, stored_files):
    upload_id = begin(client, 10).rpartition("/")[2]
    service.uploads.drop(upload_id, tenant="default")
    writing = service.partial_uploads.writing(upload_id, tenant="default")
    with pytest.raises(LookupError), writing:
        pass
    assert stored_files() == []


@pytest.mark.timeout(600)
def test_a_large_upload_that_is_cut_five_times_completes_while_others_are_served(client):
    """300 MB; the health check stays quick. Its times are the service's benchmark's business."""
    block = hashlib.sha256(b"x").digest() * 32768  # 1 MiB
    num_blocks = 300
    expected = hashlib.sha256()
    for _ in range(num_blocks):
        expected.update(block)
    url = begin(client, num_blocks * len(block))
    seconds: list[float] = []
    stopped = threading.Event()

    def ask() -> None:
        host, port = client.base_url.host, client.base_url.port
        with closing(http.client.HTTPConnection(host, port)) as connection:
            while not stopped.wait(0.02):
                started = time.perf_counter()
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                seconds.append(time.perf_counter() - started)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        offset, total = 0, num_blocks * len(block)
        for number in range(5):
            piece = (block * 50)[: 40 * len(block) + 12345 * number]
            piece = piece[offset % len(block) :]
            cut(client, url, piece, offset, total - offset)
            found = settled(client, url)
            assert offset < found <= offset + len(piece)
            offset = found
        rest = (block * (num_blocks + 1 - offset // len(block)))[offset % len(block) :]
        assert send(client, url, rest[: total - offset], offset).is_success
    finally:
        stopped.set()
        asking.join()
    assert client.get(url).json()["sha256"] == expected.hexdigest()
    assert len(seconds) > 20


def test_errors_speak_the_protocol_too(client, service):
    """Its clients take an answer without the header for one of something else."""
    unknown = f"/uploads/{'0' * 32}"
    _, reader = service.keys.create(tenant="a", name="n", scopes=[Scope.READ])
    answers = [
        client.head(unknown, headers=TUS),
        client.get(unknown),
        send(client, unknown, b"x", 0),
        client.post("/uploads", headers=TUS | {"Upload-Length": "x"}),
        client.post("/uploads", headers=TUS | {"Authorization": "Bearer mz_wrong"}),
        client.post("/uploads", headers=TUS | {"Authorization": f"Bearer {reader}"}),
        client.put("/uploads", headers=TUS),
        client.post("/uploads", headers={"Tus-Resumable": "0.2.2"}),
    ]
    assert [one.status_code for one in answers] == [404, 404, 404, 400, 401, 403, 405, 412]
    assert {one.headers.get("tus-resumable") for one in answers} == {"1.0.0"}
    assert "tus-resumable" not in client.get("/jobs").headers
