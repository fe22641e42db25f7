"""How soon the service is itself again, with the settings that a user has."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.stack import ENDLESS, SMALL, Stack, stack, state_of, wait_until
from worker.contract.messages import CONVERT_QUEUE

DEFAULTS = {
    "MOMENTUM_LEASE_SECONDS": "15",
    "MOMENTUM_SWEEP_SECONDS": "1",
    "MOMENTUM_CHECKPOINT_SECONDS": "15",
    "MOMENTUM_MAX_ATTEMPTS": "1000",
}
MEASURING = SMALL | {"measurement": SMALL["measurement"] | {"repeats": 100, "batch_size": 64}}
"""A job that is measured for a while."""
NUM_STOPS = 5


def main(num_kills: int, num_jobs: int) -> int:
    """Measure; return 1 if a bound is not kept."""
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(Path(folder), own_broker=True, **DEFAULTS) as service,
    ):
        for what, seconds, bound in _measured(service, num_kills, num_jobs):
            holds = seconds <= bound
            failed += not holds
            mark = "holds" if holds else "FAILS"
            sys.stdout.write(f"{mark}: {what}: {seconds:.2f} s (at most {bound:g} s)\n")
            sys.stdout.flush()
    return 1 if failed else 0


def _measured(service: Stack, num_kills: int, num_jobs: int) -> Iterator[tuple[str, float, float]]:
    for who in ("child", "whole worker"):
        times = sorted(_recoveries(service, who, num_kills))
        yield f"{who} killed, job runs again, p95 of {num_kills}", _p95(times), 20.0
        sys.stdout.write(f"  median {statistics.median(times):.1f} s, longest {times[-1]:.1f} s\n")
    started = time.monotonic()
    os.kill(service.pid("api"), signal.SIGKILL)
    wait_until(lambda: service.status("/readyz") is None, "it is not killed", seconds=5)
    service.wait_ready()
    yield "API killed, ready again", time.monotonic() - started, 3.0
    for stage, request in (("measuring", MEASURING), ("refining", ENDLESS)):
        longest = max(_cancelled(service, stage, request) for _ in range(NUM_STOPS))
        yield f"cancelled while {stage}, longest of {NUM_STOPS}", longest, 5.0
    longest = max(_told_to_stop(service) for _ in range(NUM_STOPS))
    yield f"worker told to stop, gone, longest of {NUM_STOPS}", longest, 10.0
    yield from _without_broker(service, num_jobs)


def _cancelled(service: Stack, stage: str, request: dict[str, Any]) -> float:
    location = service.submit(request)
    service.wait_for_stage(location, stage)
    time.sleep(1)  # into the stage
    started = time.monotonic()
    service.client.post(f"{location}/cancel")
    service.wait_for(location, "cancelled", seconds=60)
    return time.monotonic() - started


def _told_to_stop(service: Stack) -> float:
    location = service.submit(ENDLESS)
    service.wait_for_stage(location, "refining")
    time.sleep(1)
    worker, started = service.pid("worker"), time.monotonic()
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: state_of(worker) in ("", "Z"), "it does not end", seconds=60)
    taken = time.monotonic() - started
    # Handed back: the next one goes on with it, and it is still the first attempt.
    service.wait_for(location, "running", seconds=120, stage="refining", attempt=1)
    service.client.post(f"{location}/cancel")
    service.wait_for(location, "cancelled", seconds=60)
    return taken


def _recoveries(service: Stack, who: str, count: int) -> Iterator[float]:
    location = service.submit(ENDLESS)
    for attempt in range(1, count + 1):
        service.wait_for_stage(location, "refining", attempt=attempt)
        time.sleep(attempt % 4)  # at different moments of the lease
        killed = time.monotonic()
        if who == "child":
            os.kill(service.child(), signal.SIGKILL)
        else:
            service.kill_group(service.pid("worker"))
        service.wait_for(location, "running", seconds=120, attempt=attempt + 1)
        yield time.monotonic() - killed
    service.client.post(f"{location}/cancel")
    service.wait_for(location, "cancelled", seconds=60)


def _without_broker(service: Stack, num_jobs: int) -> Iterator[tuple[str, float, float]]:
    assert service.broker is not None
    os.kill(service.pid("worker"), signal.SIGSTOP)
    service.broker.kill()
    times = []
    for _ in range(num_jobs):
        started = time.monotonic()
        service.submit(SMALL)
        times.append(time.monotonic() - started)
    yield f"submitting without a broker, p99 of {num_jobs}", sorted(times)[-1 - num_jobs // 100], 1
    service.broker.start()
    with service.broker.client() as client:
        wait_until(
            lambda: client.llen(CONVERT_QUEUE) >= num_jobs - 1, "they are not sent", seconds=120
        )
        service.broker.kill()
        service.broker.wipe()
        service.broker.start()
        started = time.monotonic()
        wait_until(
            lambda: client.llen(CONVERT_QUEUE) >= num_jobs - 1, "not sent again", seconds=120
        )
    yield f"broker wiped, {num_jobs} jobs announced again", time.monotonic() - started, 15.0
    os.kill(service.pid("worker"), signal.SIGCONT)


def _p95(times: list[float]) -> float:
    return times[min(len(times) - 1, round(0.95 * len(times)))]
