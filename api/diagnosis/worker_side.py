"""Torch, device and workers: only a process that may import torch can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from api.diagnosis.findings import Finding, fault, ok, skipped, warning
from worker.contract.messages import CONVERT_QUEUE, INSPECT_QUEUE
from worker.contract.settings import Settings

CHECK_SECONDS = 120.0
"""Importing torch from a cold disk takes its time; a driver that hangs takes longer."""


def check_worker_side(
    settings: Settings, broker_url: str | None, *, num_queued: int
) -> list[Finding]:
    """Ask a process that imports torch.

    Args:
        settings: of the service.
        broker_url: of the broker, if it answers.
        num_queued: jobs that wait.
    """
    command = [sys.executable, "-P", "-m", "worker.self_check", broker_url or ""]
    environment = os.environ | {"MOMENTUM_DATA_DIR": str(settings.data_folder)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return [
            fault(
                "device",
                f"asking for it takes longer than {CHECK_SECONDS:g} seconds",
                "look whether the GPU's driver hangs (nvidia-smi), or set MOMENTUM_DEVICE=cpu",
            )
        ]
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [
            fault(
                "worker's packages",
                f"what a worker needs cannot be imported: {reason}",
                "pip install 'momentum-zoo[worker]'",
            )
        ]
    return [_device(found), *_workers(found, broker_url, num_queued)]


def _device(found: dict[str, Any]) -> Finding:
    if "device_error" in found:
        remedy = "set MOMENTUM_DEVICE to auto, or mend the driver"
        return fault("device", found["device_error"], remedy)
    name = f"{found['device']} ({found['device_name']}), torch {found['torch']}"
    return ok("device", name)


def _workers(found: dict[str, Any], broker_url: str | None, num_queued: int) -> list[Finding]:
    if broker_url is None:
        return [skipped("worker", "workers are reached through the broker, which does not answer")]
    if "workers_error" in found:
        return [warning("worker", found["workers_error"], "look at MOMENTUM_BROKER_URL")]
    waiting = f"; {num_queued} jobs wait" if num_queued else ""
    return [
        _serving(found["workers"], "worker", CONVERT_QUEUE, "celery_app", waiting),
        _serving(found["workers"], "inspection worker", INSPECT_QUEUE, "inspection_app", ""),
    ]


def _serving(
    workers: dict[str, list[str]], check: str, queue: str, module: str, consequence: str
) -> Finding:
    """Look whether a worker takes messages of a queue."""
    names = sorted(name for name, queues in workers.items() if queue in queues)
    if names:
        return ok(check, f"{len(names)} answers: {', '.join(names)}")
    return fault(
        check,
        f"none answers{consequence}",
        f"start one: python -m celery --app worker.{module} worker (momentum serve does)",
    )
