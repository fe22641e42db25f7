"""Job after job for half an hour: nothing grows."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import httpx

from tests.faults.stack import SMALL, Stack, stack

PARTS = ("api", "relay", "worker")
SAMPLE_SECONDS = 10.0
WARM_UP = 0.2
"""Share of the time after which things have their size."""

MAX_GROWTH = 0.05
"""From the first to the last third, of what was there."""


def main(minutes: float) -> int:
    """Work; return 1 if something has grown."""
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(Path(folder), MOMENTUM_MAX_UNFINISHED_JOBS="10") as service,
    ):
        num_jobs, samples = _work(service, 60 * minutes)
        for location in service.locations[-10:]:
            service.final(location)
        service.check()
        sys.stdout.write(f"{num_jobs} jobs in {minutes:g} minutes\n")
        return 1 if sum(_grows(name, values) for name, values in samples.items()) else 0


def _work(service: Stack, seconds: float) -> tuple[int, dict[str, list[float]]]:
    samples: dict[str, list[float]] = defaultdict(list)
    started, sampled_at = time.monotonic(), 0.0
    while (now := time.monotonic()) < started + seconds:
        answer = service.client.post("/convert", json=SMALL)
        if answer.status_code == httpx.codes.ACCEPTED:
            service.locations.append(str(answer.headers["Location"]))
        else:
            time.sleep(0.5)
        for location in service.locations[-3:]:
            service.client.get(location)
        if now - sampled_at > SAMPLE_SECONDS:
            sampled_at = now
            _sample(service, samples)
    return len(service.locations), samples


def _sample(service: Stack, samples: dict[str, list[float]]) -> None:
    for part in PARTS:
        _sample_process(service, part, service.pid(part), samples)
    # It is recycled after some jobs: at that moment there is none.
    with suppress(AssertionError, FileNotFoundError, ProcessLookupError):
        _sample_process(service, "worker's child", service.child(), samples)
    samples["temporary files"].append(len(list((service.data_dir / "tmp").iterdir())))
    samples["unfinished states"].append(len(list((service.data_dir / "unfinished").iterdir())))


def _sample_process(service: Stack, part: str, pid: int, samples: dict[str, list[float]]) -> None:
    status = service.of(pid, "status")
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    samples[f"{part}: MiB"].append(int(rss.split()[1]) / 1024)
    samples[f"{part}: descriptors"].append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
    samples[f"{part}: threads"].append(service.threads(pid))


def _grows(name: str, values: list[float]) -> bool:
    warm = values[int(WARM_UP * len(values)) :]
    third = max(1, len(warm) // 3)
    first, last = statistics.median(warm[:third]), statistics.median(warm[-third:])
    grows = last > first * (1 + MAX_GROWTH) + 1
    mark = "GROWS" if grows else "flat"
    sys.stdout.write(f"{mark}: {name}: {first:.1f} -> {last:.1f} (of {len(values)} looks)\n")
    return grows
