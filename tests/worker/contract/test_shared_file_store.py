"""The file store of several machines, on a real S3 server: each folder is one of them."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest
import torch

from momentum_core.refinement.checkpoints import Checkpoints, Saved
from worker.contract.collector import Collector
from worker.contract.database import open_database
from worker.contract.file_store import DamagedFileError, MissingFileError
from worker.contract.partial_uploads import PartialUploads
from worker.contract.settings import Settings
from worker.contract.shared_file_store import SharedFileStore, open_file_store
from worker.contract.shared_files import SharedFiles, StoreUnavailableError
from worker.contract.upload_store import UploadStore

TENANT = "default"


@pytest.fixture
def shared(object_store) -> SharedFiles:
    return SharedFiles(f"s3://zoo/{uuid.uuid4().hex}", object_store.options)


@pytest.fixture
def machine(shared, tmp_path):
    def make(name: str, *, cache_bytes: int = 1 << 30) -> SharedFileStore:
        return SharedFileStore(tmp_path / name, shared, cache_bytes=cache_bytes)

    return make


@pytest.fixture
def record(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'momentum.db'}")
    yield engine
    engine.dispose()


def put(files: SharedFileStore, content: bytes) -> str:
    with files.temporary_folder() as folder:
        (folder / "x").write_bytes(content)
        return files.put(folder / "x").sha256


def names(shared: SharedFiles, folder: str = "blobs") -> list[str]:
    return [one.name for one in shared.below(folder)]


def test_what_one_machine_puts_every_machine_has(machine):
    sha256 = put(machine("a"), b"weights")
    assert machine("b").verified_path(sha256).read_bytes() == b"weights"
    with pytest.raises(MissingFileError):
        machine("b").verified_path("0" * 64)


def test_a_file_that_is_damaged_on_one_machine_is_fetched_again(machine):
    a = machine("a")
    sha256 = put(a, b"weights")
    a.path_of(sha256).write_bytes(b"weightz")
    assert a.verified_path(sha256).read_bytes() == b"weights"


def test_a_copy_that_is_damaged_in_the_store_is_passed_over(machine, shared, tmp_path):
    sha256 = put(machine("a"), b"weights")
    time.sleep(1.1)  # the store tells whole seconds
    (tmp_path / "bad").write_bytes(b"weightz")
    shared.put(tmp_path / "bad", f"blobs/{sha256[:2]}/{sha256}/newer")
    assert machine("b").verified_path(sha256).read_bytes() == b"weights"
    shared.drop([one for one in names(shared) if not one.endswith("newer")])
    with pytest.raises(DamagedFileError) as caught:
        machine("c").verified_path(sha256)
    assert not isinstance(caught.value, MissingFileError)


def test_what_nobody_needs_goes_and_one_copy_of_the_rest_stays(machine, shared):
    a, b = machine("a"), machine("b")
    needed, left = put(a, b"needed"), put(a, b"left")
    time.sleep(1.1)
    put(b, b"needed")
    assert len(names(shared)) == 3
    young = a.collect(lambda _: False, older_than_seconds=3600)
    assert (young, len(names(shared))) == (0, 3)
    time.sleep(1.1)
    a.collect(lambda one: one == needed, older_than_seconds=0)
    [kept] = names(shared)
    assert kept.split("/")[2] == needed
    assert not a.path_of(left).exists()
    with pytest.raises(MissingFileError):
        machine("c").verified_path(left)
    assert machine("c").verified_path(needed).read_bytes() == b"needed"


def test_a_folder_keeps_what_was_used_last(machine):
    source = machine("a")
    digests = [put(source, bytes([number]) * 1000) for number in range(4)]
    other = machine("b", cache_bytes=2500)
    for number, sha256 in enumerate(digests):
        path = other.verified_path(sha256)
        day = time.time() - 86400 + number
        os.utime(path, (day, day))
    # Used again, so it is not the oldest any more.
    other.verified_path(digests[0])
    other._trimmed_at = -float("inf")
    other._trim()
    assert [other.path_of(one).exists() for one in digests] == [True, False, False, True]
    assert other.verified_path(digests[1]).read_bytes() == bytes([1]) * 1000


def test_a_file_that_arrives_piece_by_piece_may_arrive_anywhere(machine, record, shared):
    content = os.urandom(10_000)
    a, b = machine("a"), machine("b")
    on_a, on_b = (PartialUploads(record, files, keep_seconds=60) for files in (a, b))

    def append(where: PartialUploads, upload_id: str, end: int) -> None:
        with where.writing(upload_id, tenant=TENANT) as writing:
            start = writing.file.num_received
            os.write(writing.descriptor, content[start:end])
            if end == len(content):
                where.finish(upload_id, tenant=TENANT)

    upload_id = on_a.begin(len(content), metadata="", tenant=TENANT).id
    append(on_a, upload_id, 3000)
    assert on_b.get(upload_id, tenant=TENANT).num_received == 3000
    append(on_b, upload_id, 6000)
    append(on_a, upload_id, 8000)
    # One that dies before it has told anybody has not received anything.
    with a.received_path(upload_id).open("ab") as file:
        file.write(b"lost")
    assert on_a.get(upload_id, tenant=TENANT).num_received == 8000
    append(on_a, upload_id, 9000)
    append(on_b, upload_id, 10_000)
    assert names(shared, "pieces") == []
    for files in (a, b, machine("c")):
        uploads = UploadStore(record, files, keep_seconds=60)
        received = uploads.get(upload_id, tenant=TENANT)
        assert uploads.bring(received).read_bytes() == content
    uploads.drop(upload_id, tenant=TENANT)
    assert names(shared, "received") == []


def test_what_was_dropped_while_it_came_is_removed_at_last(machine, record, shared):
    a = machine("a")
    partial = PartialUploads(record, a, keep_seconds=60)
    upload_id = partial.begin(10, metadata="", tenant=TENANT).id
    with partial.writing(upload_id, tenant=TENANT) as writing:
        os.write(writing.descriptor, b"12345")
        UploadStore(record, a, keep_seconds=60).drop(upload_id, tenant=TENANT)
    assert names(shared, "pieces") != []
    Collector(record, a).collect()
    assert names(shared, "pieces") != [], "it is young"
    time.sleep(1.1)
    Collector(record, a).collect(young_seconds=0)
    assert names(shared, "pieces") == []


def test_a_job_goes_on_from_a_state_of_another_machine(machine, shared):
    a, b = machine("a"), machine("b")

    def states(files: SharedFileStore) -> Checkpoints:
        return Checkpoints(
            files.unfinished_path("job"),
            every_seconds=0,
            on_saved=lambda: files.share_unfinished("job"),
        )

    for step in range(5):
        tensors = {"x": torch.full((3,), float(step))}
        states(a).below("student").save(Saved(tensors, {"identity": "i", "step": step}))
        a._sharing["job"].result()
    assert len(names(shared, "unfinished")) == 2
    b.bring_unfinished("job")
    saved = states(b).below("student").load("i")
    assert saved is not None
    assert saved.values["step"] == 4
    assert saved.tensors["x"].tolist() == [4.0] * 3
    # One that has lost the job takes nothing from whoever has it now.
    states(b).below("student").save(Saved(tensors, {"identity": "i", "step": 5}))
    b.share_unfinished("job")
    b._sharing["job"].result()
    newer = set(names(shared, "unfinished"))
    a._send_unfinished("job")
    assert newer <= set(names(shared, "unfinished"))
    assert a.unfinished_jobs() == b.unfinished_jobs() == ["job"]
    b.drop_unfinished("job")
    assert names(shared, "unfinished") == []


def test_a_store_that_is_away_is_said_to_be(object_store, tmp_path):
    away = SharedFiles("s3://zoo/x", object_store.options | {"endpoint_url": "http://127.0.0.1:1"})
    none = SharedFiles("s3://another/x", object_store.options)
    wrong = SharedFiles("s3://zoo/x", object_store.options | {"secret": "another"})
    for number, store in enumerate((none, wrong, away)):
        files = SharedFileStore(tmp_path / f"m{number}", store, cache_bytes=0)
        with pytest.raises(StoreUnavailableError):
            put(files, b"weights")
        with pytest.raises(StoreUnavailableError):
            files.verified_path("0" * 64)
        if store is none:
            files.check()  # makes the bucket
            assert files.verified_path(put(files, b"weights")).exists()
            continue
        with pytest.raises(StoreUnavailableError):
            files.check()
        if store is not away:  # it would only take long
            files.drop_unfinished("job")  # what is left goes when the store is back


@pytest.mark.parametrize("url", ["/data", "file:///data", "zoo/x", "nothing://zoo"])
def test_an_address_that_is_none_is_refused(url, tmp_path: Path):
    with pytest.raises(ValueError, match="MOMENTUM_STORE_URL"):
        open_file_store(Settings(data_dir=tmp_path, store_url=url))
