"""What a person waits for: a large upload on a poor line, and a job's first sign of life."""

from __future__ import annotations

import hashlib
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.benchmarks.api_process import Served, api
from tests.benchmarks.findings import Claim
from tests.end_to_end.conftest import serving

UPLOAD_BYTES = 300 << 20
NUM_CUTS = 5
NUM_JOBS = 7
PIECE = 1 << 20
TUS = {"Tus-Resumable": "1.0.0"}
JOB = {
    "source": {"zoo": "digits_resnet26"},
    "measurement": {"rivals": False, "predict": False, "repeats": 1},
    "refinement": None,
}


def run(folder: Path) -> Iterator[Claim]:
    """Measure both."""
    with api(folder / "cut") as ours:
        yield from _cut_upload(ours)
    yield from _first_stage(folder / "promptness")


def _cut_upload(ours: Served) -> Iterator[Claim]:
    """Send a file whose connection is cut again and again, while others ask how it is."""
    content = os.urandom(PIECE) * (UPLOAD_BYTES // PIECE)
    seconds: list[float] = []
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=ours.url) as client:
            while not is_over.is_set():
                started = time.perf_counter()
                client.get("/healthz").raise_for_status()
                seconds.append(time.perf_counter() - started)
                time.sleep(0.002)

    asking = threading.Thread(target=ask)
    asking.start()
    with httpx.Client(base_url=ours.url, headers=ours.headers | TUS, timeout=60) as client:
        made = client.post("/uploads", headers={"Upload-Length": str(len(content))})
        place = made.headers["Location"]
        for cut in range(NUM_CUTS + 1):
            time.sleep(1)  # as a client that comes back; the server may still write what it has
            offset = int(client.head(place).headers["Upload-Offset"])
            end = len(content) if cut == NUM_CUTS else (cut + 1) * len(content) // (NUM_CUTS + 1)
            _send_until(ours, place, content, offset, end)
        # The last piece is being taken in; the answer tells when it is there.
        while client.head(place).headers["Upload-Offset"] != str(len(content)):
            time.sleep(0.05)
        found = client.get(place).json()
    is_over.set()
    asking.join()
    p99 = sorted(seconds)[int(0.99 * len(seconds))]
    sys.stdout.write(f"  {len(seconds)} times /healthz, p99 {1000 * p99:.1f} ms\n")
    is_other = found["sha256"] != hashlib.sha256(content).hexdigest()
    yield Claim("an upload of 300 MiB cut five times: digests that differ", float(is_other), 0)
    yield Claim("p99 of /healthz meanwhile over 100 ms", p99 / 0.1, 1)


def _send_until(ours: Served, place: str, content: bytes, offset: int, end: int) -> None:
    """Promise the rest of the file, send a part of it, and hang up."""
    address = urlsplit(ours.url)
    assert address.hostname
    assert address.port
    lines = [
        f"PATCH {place} HTTP/1.1",
        f"Host: {address.netloc}",
        f"Authorization: Bearer {ours.key}",
        "Tus-Resumable: 1.0.0",
        f"Upload-Offset: {offset}",
        "Content-Type: application/offset+octet-stream",
        f"Content-Length: {len(content) - offset}",
    ]
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        view = memoryview(content)
        for at in range(offset, end, PIECE):
            connection.sendall(view[at : min(at + PIECE, end)])
        if end == len(content):
            assert b" 204 " in connection.recv(1 << 12).partition(b"\r\n")[0]


def _first_stage(folder: Path) -> Iterator[Claim]:
    """Ask a service whose worker is idle for jobs, one by one."""
    taken = []
    with serving(folder) as service:
        for number in range(NUM_JOBS + 1):
            asked_at = time.time()
            place = service.submit(JOB)
            service.wait_for(place, "succeeded", seconds=120)
            events = service.client.get(f"{place}/events").json()["events"]
            first = next(one for one in events if one["kind"] == "stage")
            if number:  # the first one also waits for the worker to start
                taken.append(datetime.fromisoformat(first["at"]).timestamp() - asked_at)
            time.sleep(0.5)
    told = ", ".join(f"{one:.3f}" for one in sorted(taken))
    sys.stdout.write(f"  from POST /convert to the first stage, seconds: {told}\n")
    yield Claim("from POST /convert to the first stage, seconds, the slowest", max(taken), 1)
    yield Claim("likewise, the median", statistics.median(taken), 1)
