"""The API and the relay are killed, starved and cut off: what was acknowledged is done, once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
import uuid

import httpx
import pytest

from tests.conftest import ROOT, slow
from tests.end_to_end.conftest import MOMENTUM
from tests.faults.stack import LONG, SMALL, Stack, stack, wait_until
from tests.old_record import take_back
from worker.broker import create_celery_app
from worker.contract.messages import CONVERT_QUEUE, CONVERT_TASK
from worker.contract.request import REQUEST_VERSION

pytestmark = pytest.mark.timeout(600)

ENTRY = next((ROOT / "worker" / "zoo_entries").glob("digits_resnet26-*.safetensors"))
PREPROCESSING = {"mean": [0.3], "std": [0.4]}


def converted(service: Stack, location: str, undisturbed: str) -> None:
    """Hold that a job of `SMALL` has ended, well and once."""
    service.end_of(location)
    service.check({location: undisturbed})
    assert service.kinds(location).count("started") == 1


def multipart(content: bytes, *, boundary: str = "b0und") -> bytes:
    request = {"preprocessing": PREPROCESSING, "refinement": None}
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="request"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(request)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="checkpoint"; filename="n"\r\n\r\n'
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.slow
@pytest.mark.fault(1)
def test_the_api_is_killed_while_it_receives_a_file(service: Stack, undisturbed):
    body, key = multipart(ENTRY.read_bytes()), uuid.uuid4().hex
    head = (
        f"POST /convert HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
        "Content-Type: multipart/form-data; boundary=b0und\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", service.port)) as sender:
        sender.sendall(head + body[: len(body) // 2])
        temporary = service.data_dir / "tmp"
        wait_until(lambda: any(temporary.iterdir()), "nothing is received", seconds=20)
        os.kill(service.pid("api"), signal.SIGKILL)
        sender.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert sender.recv(100) == b""
    service.wait_ready()
    assert not any(temporary.iterdir())
    known = "SELECT count(*) FROM idempotency_keys WHERE key = :key"
    assert service.execute(known, key=key) == [(0,)]
    headers = {"Idempotency-Key": key, "Content-Type": "multipart/form-data; boundary=b0und"}
    answer = service.client.post("/convert", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    service.locations.append(answer.headers["Location"])
    service.end_of(service.locations[-1])
    service.check()


@pytest.mark.fault(2)
def test_the_api_is_killed_between_record_and_answer(service: Stack, undisturbed):
    service.arm("submit.committed", "kill")
    key = {"Idempotency-Key": uuid.uuid4().hex}
    with pytest.raises(httpx.TransportError):
        service.client.post("/convert", json=SMALL, headers=key)
    service.wait_ready()
    answer = service.client.post("/convert", json=SMALL, headers=key)
    assert answer.status_code == 202
    assert answer.headers["Idempotent-Replayed"] == "true"
    service.locations.append(answer.headers["Location"])
    count = "SELECT count(*) FROM idempotency_keys WHERE key = :key"
    assert service.execute(count, key=key["Idempotency-Key"]) == [(1,)]
    converted(service, service.locations[-1], undisturbed)


@pytest.mark.fault(3)
@pytest.mark.fault(4)
@pytest.mark.parametrize("place", ["relay.unsent", "relay.sent"])
def test_the_relay_is_killed_around_a_message(service: Stack, undisturbed, place):
    service.arm(place, "kill")
    location = service.submit(SMALL)
    service.wait_hit(place, seconds=20)
    converted(service, location, undisturbed)


@pytest.mark.fault(29)
def test_two_relays_do_everything_once(service: Stack, undisturbed):
    other = service.add_relay()
    locations = [service.submit(SMALL) for _ in range(3)]
    for location in locations:
        service.end_of(location)
        assert service.kinds(location).count("started") == 1
    service.check(dict.fromkeys(locations, undisturbed))
    assert other.poll() is None


@pytest.mark.fault(27)
def test_the_record_is_locked_for_longer_than_anyone_waits(service: Stack):
    location = service.submit(LONG)
    service.wait_for_stage(location, "refining")
    with service.locked():
        started = time.monotonic()
        answer = service.client.post("/convert", json=SMALL)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["Retry-After"] == "5"
        assert time.monotonic() - started < 30
        if service.is_on_sqlite:
            assert service.client.get(location).status_code == 200, "reading goes on"
    service.end_of(location)
    service.check()


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", ["momentum.db", "momentum.db-wal"])
def test_the_records_file_is_taken_away(service: Stack, undisturbed, name):
    """What was written from then on would be lost with the process."""
    if not service.is_on_sqlite:
        pytest.skip("PostgreSQL's files are not ours")
    service.end_of(service.submit(SMALL))
    file, away = service.data_dir / name, service.data_dir / "away"
    file.rename(away)
    try:
        answer = service.client.post("/convert", json=SMALL)
        ready = service.client.get("/readyz")
        time.sleep(3)  # every process has looked at it
        assert not file.exists(), "nobody makes another one"
    finally:
        away.rename(file)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert (ready.status_code, ready.json()["checks"]["storage"]) == (503, "ok")
    assert ready.json()["checks"]["database"].startswith("failed")
    service.wait_ready()
    converted(service, service.submit(SMALL), undisturbed)


@pytest.mark.slow
@pytest.mark.fault(36)
def test_the_api_has_no_descriptors_left(service: Stack, undisturbed):
    api = service.pid("api")
    num_open = len(os.listdir(f"/proc/{api}/fd"))
    limits = resource.prlimit(api, resource.RLIMIT_NOFILE)
    resource.prlimit(api, resource.RLIMIT_NOFILE, (num_open + 20, limits[1]))
    connections = []
    try:
        for _ in range(60):
            connections.append(socket.create_connection(("127.0.0.1", service.port), timeout=5))
        time.sleep(1)
        assert os.path.exists(f"/proc/{api}"), "it lives"
    finally:
        for each in connections:
            each.close()
    wait_until(lambda: service.status("/healthz") == 200, "it accepts nobody", seconds=20)
    assert service.pid("api") == api
    resource.prlimit(api, resource.RLIMIT_NOFILE, limits)
    service.wait_ready()
    converted(service, service.submit(SMALL), undisturbed)


@pytest.mark.fault(30)
def test_a_message_and_a_job_of_a_newer_version_stop_nobody(service: Stack, undisturbed):
    pause = f"UPDATE queues SET paused_at = :at WHERE name = '{CONVERT_QUEUE}'"
    service.execute(pause, at=1.0)
    location = service.submit(SMALL)
    job = location.rpartition("/")[2]
    newer = "UPDATE jobs SET request_version = :version WHERE id = :id"
    service.execute(newer, version=REQUEST_VERSION + 1, id=job)
    service.execute(pause, at=None)
    child = service.child()
    app = create_celery_app(service.broker_url)
    for arguments in ([job, "more"], [], [{"version": 99, "job": job}]):
        app.send_task(CONVERT_TASK, args=arguments, queue=CONVERT_QUEUE)
    app.send_task("momentum.convert.v99", args=[job], queue=CONVERT_QUEUE)
    app.close()
    service.end_of(service.submit(SMALL))
    waiting = service.wait_for(location, "queued", seconds=20, waiting_for="worker")
    assert waiting["attempt"] == 0
    assert service.child() == child, "no message ended the worker"
    service.execute(newer, version=REQUEST_VERSION, id=job)
    converted(service, location, undisturbed)


@pytest.mark.slow
@pytest.mark.fault(39)
def test_the_disk_of_the_logs_is_full(tmp_path):
    logs = tmp_path / "data" / "logs"
    logs.mkdir(parents=True)
    for name in ("api", "relay", "worker", "inspection"):
        (logs / f"{name}.log").symlink_to("/dev/full")
    with stack(tmp_path) as service:
        location = service.submit(SMALL)
        service.end_of(location)
        service.check()
        os.kill(service.child(), signal.SIGKILL)
        service.end_of(service.submit(SMALL))


@pytest.mark.slow
@pytest.mark.fault(40)
def test_a_start_is_killed_while_it_upgrades_the_record(tmp_path):
    with stack(tmp_path) as service:
        service.end_of(service.submit(SMALL))
        service.send(signal.SIGINT)
        service.wait(20)
        take_back(service.settings.database, "0009")
        for place in ("database.step", "database.upgraded"):
            service.arm(place, "kill")
            port = str(service.port)
            command = [MOMENTUM, "serve", "--data-dir", service.data_dir, "--port", port]
            killed = subprocess.run(
                command, env=service.environment, capture_output=True, timeout=60, check=False
            )
            assert killed.returncode == -signal.SIGKILL
            service.wait_hit(place)
        service.start()
        service.end_of(service.submit(SMALL))
        service.check()


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "place", ["queued", "step.refining", *map(slow, ["claim.taken", "publish.unrecorded"])]
)
def test_a_job_is_cancelled_wherever_it_is(service: Stack, place):
    if place == "queued":
        os.kill(service.pid("relay"), signal.SIGSTOP)
    else:
        service.arm(place, "sleep 120")
    location = service.submit(SMALL)
    if place == "queued":
        service.client.post(f"{location}/cancel")
        os.kill(service.pid("relay"), signal.SIGCONT)
    else:
        service.wait_hit(place)
        asked = time.monotonic()
        service.client.post(f"{location}/cancel")
    job = service.wait_for(location, "cancelled", seconds=60)
    assert place == "queued" or time.monotonic() - asked < 30
    assert job["artifacts"] == []
    service.end_of(service.submit(SMALL))
    service.check()


@pytest.mark.fault(32)
def test_a_cancellation_meets_the_publication(service: Stack):
    """Whichever comes first stands; both are said never."""
    ends = set()
    for delay in (0.0, 0.3, 0.6, 1.0):
        location = service.submit(SMALL)
        service.arm("publish.unrecorded", f"sleep {delay}")
        service.wait_hit("publish.unrecorded")
        service.client.post(f"{location}/cancel")
        wait_until(
            lambda at=location: service.job(at)["state"] not in ("running", "queued"),
            "it does not end",
            seconds=20,
        )
        ends.add(service.job(location)["state"])
    assert ends <= {"cancelled", "succeeded"}
    service.check()


@pytest.mark.fault(33)
def test_a_download_outlives_its_job(service: Stack, undisturbed):
    location = service.submit(SMALL)
    service.end_of(location)
    names = [one["name"] for one in service.job(location)["artifacts"]]
    assert "bundle.zip" in names
    with service.client.stream("GET", f"{location}/artifacts/bundle.zip") as answer:
        pieces = answer.iter_bytes(1024)
        received = len(next(pieces))
        blob = (
            service.data_dir / "blobs" / answer.headers["ETag"][1:3] / answer.headers["ETag"][1:-1]
        )
        assert service.client.delete(location).status_code == 204
        blob.unlink()  # as the collector does in an hour
        received += sum(map(len, pieces))
    assert received == int(answer.headers["Content-Length"])
    assert service.client.get(f"{location}/artifacts/bundle.zip").status_code == 404
    service.locations.remove(location)
    service.check()


def test_many_kills_of_api_and_relay_lose_nothing(service: Stack, undisturbed):
    stopped, locations = threading.Event(), []

    def submit() -> None:
        while not stopped.is_set() and len(locations) < 4:
            key = {"Idempotency-Key": uuid.uuid4().hex}
            while True:
                try:
                    answer = service.client.post("/convert", json=SMALL, headers=key)
                except httpx.TransportError:
                    time.sleep(0.1)
                    continue
                if answer.status_code == 202:
                    locations.append(answer.headers["Location"])
                    break

    submitting = threading.Thread(target=submit)
    submitting.start()
    for part in ("relay", "api"):
        time.sleep(0.5)
        os.kill(service.pid(part), signal.SIGKILL)
        service.wait_ready()
    submitting.join(60)
    stopped.set()
    service.locations += locations
    for location in locations:
        service.end_of(location)
        assert service.kinds(location).count("started") == 1
    service.check(dict.fromkeys(locations, undisturbed))
