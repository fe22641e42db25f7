"""Files that are there completely, under the name of their content, or not at all."""

from __future__ import annotations

import hashlib
import stat

import pytest

from momentum_core.durable_files import new_file
from worker.contract.file_store import FileStore


def test_a_file_lies_under_its_digest_and_is_gone_from_where_it_was(tmp_path):
    files = FileStore(tmp_path / "data")
    with files.temporary_folder() as folder:
        (folder / "made").write_bytes(b"weights")
        stored = files.put(folder / "made")
        assert list(folder.iterdir()) == []
    assert stored.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert stored.num_bytes == 7
    assert files.path_of(stored.sha256).read_bytes() == b"weights"
    assert not folder.exists()


def test_the_same_content_twice_is_one_file(tmp_path):
    files = FileStore(tmp_path)
    digests = set()
    for _ in range(2):
        with files.temporary_folder() as folder:
            (folder / "x").write_bytes(b"same")
            digests.add(files.put(folder / "x").sha256)
    assert len(digests) == 1
    assert sum(path.is_file() for path in (tmp_path / "blobs").rglob("*")) == 1


def test_nobody_else_may_look_into_the_folder(tmp_path):
    FileStore(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(tmp_path):
    files = FileStore(tmp_path)
    (tmp_path / "tmp" / "left").mkdir()
    (tmp_path / "tmp" / "left" / "half").write_bytes(b"x")
    with files.temporary_folder() as in_use:
        FileStore(tmp_path).clear_temporary()
        assert list((tmp_path / "tmp").iterdir()) == [in_use]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "zz" * 32, "ab" * 31])
def test_a_path_is_made_of_digests_only(tmp_path, digest):
    with pytest.raises((AssertionError, ValueError)):
        FileStore(tmp_path).path_of(digest)


def test_a_file_whose_writing_fails_does_not_appear(tmp_path):
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "x") as _:
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
