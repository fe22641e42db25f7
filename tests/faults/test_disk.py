"""The disk is full, has no names left, fails, or is slow: jobs wait for it, nothing is torn."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, slow
from tests.faults.stack import SMALL, Stack, stack, wait_until

pytestmark = pytest.mark.timeout(600)

ENTRY = next((ROOT / "worker" / "zoo_entries").glob("digits_resnet26-*.safetensors"))


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system of a few megabytes; skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path, *, left: int = 0) -> Iterator[None]:
    """Take all the room of a disk, but for so many bytes."""
    path = folder / "filler"
    try:
        with path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        os.truncate(path, path.stat().st_size - left)
        yield
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("disk") / "mounted", "size=96m") as folder:
        yield folder


@pytest.fixture(scope="module")
def service(disk):
    # The reserve is for larger disks; Valkey's log shares this one.
    with stack(disk, MOMENTUM_MIN_FREE_BYTES=str(24 << 20)) as service:
        yield service


def is_whole(service: Stack) -> bool:
    return not service.is_on_sqlite or service.execute("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.fault(16)
def test_no_file_is_taken_that_the_disk_has_no_room_for(service: Stack, disk):
    with filled(disk, left=1 << 20):
        answer = service.client.post("/uploads", content=ENTRY.read_bytes())
        ready = service.client.get("/readyz").json()
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert ready["checks"]["storage"].startswith("failed")
    service.wait_ready()
    assert service.client.post("/uploads", content=ENTRY.read_bytes()).status_code == 201
    assert is_whole(service)


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "place", ["checkpoint.unnamed", *map(slow, ["store.put", "stage.packaging"])]
)
def test_a_job_waits_for_space_and_goes_on_by_itself(service: Stack, disk, undisturbed, place):
    """The record is on the same disk: it cannot be written, either."""
    service.arm(place, "sleep 4")
    location = service.submit(SMALL)
    service.wait_hit(place)
    with filled(disk):
        time.sleep(8)
    job = service.end_of(location)
    assert job["error"] is None
    assert is_whole(service)
    service.check({location: undisturbed})


@pytest.mark.fault(16)
def test_a_job_says_that_it_waits_for_space(service: Stack, undisturbed):
    service.arm("store.put", "error ENOSPC")
    location = service.submit(SMALL)
    service.wait_hit("store.put")
    wait_until(lambda: "resumed" in service.kinds(location), "it does not go on", seconds=60)
    job = service.end_of(location)
    assert job["attempt"] == 1
    kinds = service.kinds(location)
    assert kinds.index("waiting") < kinds.index("resumed")
    service.check({location: undisturbed})


@pytest.mark.fault(18)
def test_a_sync_that_fails_publishes_nothing(service: Stack, undisturbed):
    service.arm("stage.packaging", "sleep 1")
    location = service.submit(SMALL)
    service.wait_hit("stage.packaging")
    service.arm("fsync", "error EIO")
    job = service.end_of(location, "failed")
    assert job["error"]["code"] == "internal_error"
    assert job["artifacts"] == []
    again = service.submit(SMALL)
    service.end_of(again)
    service.check({again: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(38)
def test_a_slow_disk_costs_no_lease(service: Stack, undisturbed):
    service.arm("fsync", "always sleep 0.5")
    location = service.submit(SMALL)
    job = service.end_of(location)
    service.disarm("fsync")
    assert job["attempt"] == 1
    assert service.kinds(location).count("started") == 1
    service.check({location: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(17)
def test_a_disk_without_names_refuses_the_archive_and_is_left_clean(tmp_path):
    with (
        small_disk(tmp_path / "mounted", "size=96m,nr_inodes=400") as disk,
        stack(disk, MOMENTUM_MIN_FREE_BYTES="0") as service,
    ):
        taken = _take_names(disk)
        answer = service.client.post(
            "/convert",
            files={
                "checkpoint": ENTRY.read_bytes(),
                "data": _archive(),
                "request": (None, "{}", "application/json"),
            },
        )
        assert answer.status_code in (422, 507), answer.text
        for path in taken:
            path.unlink()
        service.wait_ready()
        assert not any((service.data_dir / "tmp").iterdir())
        service.end_of(service.submit(SMALL))
        service.check()


def _take_names(disk: Path) -> list[Path]:
    taken = []
    while os.statvfs(disk).f_favail > 1:
        path = disk / f"taken{len(taken)}"
        path.touch()
        taken.append(path)
    return taken


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(20):
            picture = io.BytesIO()
            Image.new("L", (8, 8), number).save(picture, "PNG")
            entry = tarfile.TarInfo(f"{number % 2}/{number}.png")
            entry.size = len(picture.getvalue())
            picture.seek(0)
            archive.addfile(entry, picture)
    return packed.getvalue()
