"""The zoo's files come from a real HTTP server on the loopback."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from momentum_core.errors import CheckpointError
from worker.contract.zoo import find_zoo_entry
from worker.zoo import fetch_zoo_checkpoint

CONTENT = b"weights" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ENTRY = replace(
    find_zoo_entry("resnet18"), file_name=f"tiny-{DIGEST[:8]}.pth", sha256_prefix=DIGEST[:8]
)


class Mirror:
    """What the server answers next, and how often it was asked."""

    def __init__(self):
        self.status, self.body, self.declared = 200, CONTENT, len(CONTENT)
        self.paths: list[str] = []
        mirror = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.paths.append(self.path)
                self.send_response(mirror.status)
                length = mirror.declared if mirror.status == 200 else 0
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if mirror.status == 200:
                    self.wfile.write(mirror.body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/models"


@pytest.fixture
def mirror():
    mirror = Mirror()
    thread = threading.Thread(target=mirror.server.serve_forever, args=(0.01,))
    thread.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join()


def refusal_of(tmp_path, base_url) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        fetch_zoo_checkpoint(ENTRY, tmp_path, base_url=base_url)
    assert not list(tmp_path.glob(".*")), "a temporary file was left behind"
    return caught.value


def test_a_file_is_fetched_once_and_its_digest_recorded(mirror, tmp_path):
    folder = tmp_path / "zoo"
    first = fetch_zoo_checkpoint(ENTRY, folder, base_url=mirror.url)
    again = fetch_zoo_checkpoint(ENTRY, folder, base_url=mirror.url + "/")

    assert first == again == folder / ENTRY.file_name
    assert first.read_bytes() == CONTENT
    assert mirror.paths == [f"/models/{ENTRY.file_name}"]
    assert (folder / f"{ENTRY.file_name}.sha256").read_text().split()[0] == DIGEST
    assert len(list(folder.iterdir())) == 2


def test_a_file_put_there_by_hand_is_used_without_network(tmp_path):
    (tmp_path / ENTRY.file_name).write_bytes(CONTENT)
    assert fetch_zoo_checkpoint(ENTRY, tmp_path, base_url="http://127.0.0.1:9").exists()
    assert (tmp_path / f"{ENTRY.file_name}.sha256").exists()


def test_another_file_under_the_name_is_refused(mirror, tmp_path):
    mirror.body = CONTENT[:-1] + b"!"
    assert refusal_of(tmp_path, mirror.url).code == "checksum_mismatch"
    assert not list(tmp_path.iterdir())


def test_another_file_put_there_by_hand_is_refused(tmp_path):
    (tmp_path / ENTRY.file_name).write_bytes(b"other")
    error = refusal_of(tmp_path, "http://127.0.0.1:9")
    assert error.code == "checksum_mismatch"
    assert "MOMENTUM_ZOO_DIR" in str(error)


def test_a_cut_download_leaves_nothing(mirror, tmp_path):
    mirror.body = CONTENT[: len(CONTENT) // 2]
    assert refusal_of(tmp_path, mirror.url).code == "zoo_unavailable"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no_file_is_unavailable(mirror, tmp_path, status):
    mirror.status = status
    error = refusal_of(tmp_path, mirror.url)
    assert error.code == "zoo_unavailable"
    assert str(status) in str(error)


def test_without_network_the_error_says_which_file_to_put_where(tmp_path):
    error = refusal_of(tmp_path, "http://127.0.0.1:9")
    assert error.code == "zoo_unavailable"
    assert all(word in str(error) for word in (ENTRY.file_name, ENTRY.url, "MOMENTUM_ZOO_DIR"))
    assert str(tmp_path) not in str(error)


def test_a_file_that_changed_after_its_first_use_is_refused(mirror, tmp_path):
    path = fetch_zoo_checkpoint(ENTRY, tmp_path, base_url=mirror.url)
    # Same published prefix, other digest: the record tells them apart.
    record = path.with_name(path.name + ".sha256")
    record.write_text(DIGEST[:8] + "0" * 56 + "  name\n")
    error = refusal_of(tmp_path, mirror.url)
    assert error.code == "checksum_mismatch"
    assert "first used" in str(error)


def test_a_replaced_file_with_the_right_prefix_is_not_fetched_over_the_record(mirror, tmp_path):
    path = fetch_zoo_checkpoint(ENTRY, tmp_path, base_url=mirror.url)
    path.unlink()
    (tmp_path / f"{path.name}.sha256").write_text(DIGEST[:8] + "0" * 56 + "\n")
    assert refusal_of(tmp_path, mirror.url).code == "checksum_mismatch"
    assert not path.exists()
