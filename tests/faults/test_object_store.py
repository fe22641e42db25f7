"""Machines that share an object store and nothing else of their disks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stack import SMALL, Stack, small_job, stack, wait_until
from tests.faults.test_disk import ENTRY
from tests.object_store import ObjectStore

pytestmark = pytest.mark.timeout(600)

TUS = {"Tus-Resumable": "1.0.0"}
TYPE = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[ObjectStore]:
    """A store that the tests may end."""
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    try:
        store.start()
        yield store
    finally:
        store.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory, store) -> Iterator[Stack]:
    """The service; its converting worker is another machine's in each test."""
    environment = store.environment(uuid.uuid4().hex)
    with stack(tmp_path_factory.mktemp("stack"), **environment) as service:
        yield service


def elsewhere(service: Stack, folder: Path) -> dict[str, str]:
    """Return the settings of a process on another machine."""
    record = {"MOMENTUM_DATABASE_URL": service.settings.database}
    return record | {"MOMENTUM_DATA_DIR": str(folder)}


def test_no_machine_needs_the_disk_of_another(service: Stack, tmp_path):
    """Sent in pieces to two APIs, converted by two workers, one of which dies; had from both."""
    content = ENTRY.read_bytes()
    third = len(content) // 3
    service.end_worker()
    with service.another_api(**elsewhere(service, tmp_path / "api")) as other:
        begun = service.client.post("/uploads", headers=TUS | {"Upload-Length": str(len(content))})
        url = begun.headers["location"]
        for number, client in enumerate((service.client, other, service.client)):
            offset = int(other.head(url, headers=TUS).headers["upload-offset"])
            assert offset == number * third
            end = len(content) if number == 2 else offset + third
            headers = TUS | TYPE | {"Upload-Offset": str(offset)}
            answer = client.patch(url, content=content[offset:end], headers=headers)
            assert answer.status_code == 204, answer.text
        upload = other.get(url).json()
        assert upload["sha256"] == hashlib.sha256(content).hexdigest()
        request = small_job(max_steps=60)
        request |= {
            "source": {"upload": upload["id"]},
            "architecture": "digits_resnet26",
            "data": {"synthetic": 64},
            "preprocessing": {"mean": [0.3], "std": [0.4]},
        }
        expected = other.post("/convert", json=request)
        assert expected.status_code == 202, expected.text
        location = service.submit(request)
        undisturbed = str(expected.headers["Location"])
        first = service.add_worker(**elsewhere(service, tmp_path / "first"))
        service.end_of(undisturbed)
        service.arm("step.refining", "always sleep 0.3")
        service.wait_hit("step.refining")
        states = f"unfinished/{location.rpartition('/')[2]}"
        wait_until(
            lambda: any(int(Path(one).name[:8]) > 2 for one in service.shared_files(states)),
            "no later state is shared",
            seconds=120,
        )
        service.kill_group(first.pid)
        service.disarm("step.refining")
        service.add_worker(**elsewhere(service, tmp_path / "second"))
        job = service.end_of(location)
        assert job["attempt"] == 2
        report = other.get(job["links"]["report"]).json()
        assert report["refinement"]["resumed_at"][0] > 0
        assert service.weights(location) == service.weights(undisturbed)
        for client in (service.client, other):
            for artifact in job["artifacts"]:
                found = client.get(f"{location}/artifacts/{artifact['name']}")
                assert hashlib.sha256(found.content).hexdigest() == artifact["sha256"]
        assert not (tmp_path / "api" / "momentum.db").exists()
    service.check()
    assert service.shared_files("unfinished") == []


def test_a_store_that_is_away_loses_nothing(service: Stack, store, undisturbed):
    service.arm("store.share", "sleep 3")
    location = service.submit(SMALL)
    service.wait_hit("store.share")
    store.stop()
    refused = service.client.post("/uploads", content=b"PK" * 500)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    ready = service.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["storage"]) == (
        503,
        "failed: StoreUnavailableError",
    )
    waiting = service.wait_for(location, "queued", seconds=120, waiting_for="space")
    assert waiting["error"] is None
    store.start()
    job = service.end_of(location)
    assert job["attempt"] == 1
    service.wait_ready()
    service.check({location: undisturbed})
