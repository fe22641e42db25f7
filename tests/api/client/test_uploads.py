"""Files sent ahead: over lines that break, and compared by their digest."""

from __future__ import annotations

import hashlib
import os

import pytest

from api.client import ApiError, files_ahead
from tests.api.client.cutting_proxy import cutting_proxy

NUM_BYTES = 6_000_000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(os.urandom(NUM_BYTES))
    return path


def sha256_of(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_goes_over_a_line_that_breaks_again_and_again(call_at, port, file):
    told = []
    with cutting_proxy(port, cuts=(2_000_000,) * 3, bytes_per_second=8e6) as proxy:
        found = call_at(proxy.url)(
            "upload", args=(file,), on_progress=lambda *one: told.append(one)
        )
        assert proxy.num_cut == 3
        # What had arrived was not sent again: at most what was on its way at each cut.
        assert proxy.num_bytes < 1.6 * NUM_BYTES
    assert (found.num_received, found.sha256) == (NUM_BYTES, sha256_of(file))
    assert told[-1] == (NUM_BYTES, NUM_BYTES)


def test_pieces_of_a_large_file_are_put_together(call, file, monkeypatch):
    monkeypatch.setattr(files_ahead, "PIECE_BYTES", 1_000_001)
    found = call("upload", args=(file,))
    assert found.sha256 == sha256_of(file)
    assert call("get_upload", args=(found.id,)) == found
    call("delete_upload", args=(found.id,))
    with pytest.raises(ApiError, match="upload_not_found"):
        call("get_upload", args=(found.id,))


def test_a_line_that_lets_nothing_through_is_given_up(call_at, port, file):
    with (
        cutting_proxy(port, cuts=(1000, *(0,) * 50)) as proxy,
        pytest.raises(ApiError, match="connection_failed"),
    ):
        call_at(proxy.url)("upload", args=(file,))


def test_a_file_that_is_written_to_meanwhile_is_not_taken(call, file, stored_files):
    def write(sent: int, _: int) -> None:
        if sent < NUM_BYTES:
            with file.open("r+b") as opened:
                opened.seek(-1, os.SEEK_END)
                opened.write(b"x")

    file.write_bytes(b"a" * NUM_BYTES)
    with pytest.raises(ApiError, match="was it written to meanwhile") as refused:
        call("upload", args=(file,), on_progress=write)
    assert refused.value.code == "checksum_mismatch"
    assert stored_files() == []


@pytest.mark.parametrize(("name", "words"), [("none", "No such file"), (".", "Is a directory")])
def test_what_is_no_file_is_said_to_be_none(call, tmp_path, name, words):
    with pytest.raises(ApiError, match=words):
        call("upload", args=(tmp_path / name,))


def test_an_empty_file_is_refused_by_the_service(call, tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ApiError, match="truncated_file"):
        call("upload", args=(tmp_path / "empty",))
