"""What workers and queues look like."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.times import optional_time, time_of
from worker.contract.queue_store import QueueState
from worker.contract.worker_store import SILENT_SECONDS, Worker


class WorkerState(StrEnum):
    """Whether a worker is heard of."""

    ALIVE = "alive"
    SILENT = "silent"


class DeviceView(BaseModel):
    """What a worker computes on."""

    name: str = Field(examples=["cuda:0"])
    model: str = Field(examples=["NVIDIA L4"])
    memory_bytes: int
    num_threads: int
    datasets: list[str] = Field(description="Registered data sets that are at hand there.")


class WorkerView(BaseModel):
    """A worker."""

    name: str = Field(examples=["gpu-host:4711"])
    state: WorkerState = Field(
        description=f"`silent` after {SILENT_SECONDS:g} seconds without a word."
    )
    draining: bool = Field(description="Whether it finishes its job and takes no other.")
    busy: bool
    current_job: str | None = Field(description="Its job, if that is one that you may see.")
    device: DeviceView | None = Field(description="Null while it starts.")
    queues: list[str] = Field(examples=[["momentum-convert"]])
    version: str
    torch_version: str
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, worker: Worker, *, tenant: str | None) -> Self:
        """Show a worker to a tenant, or (None) to whoever runs the service."""
        is_visible = tenant is None or tenant == worker.job_tenant
        return cls(
            name=worker.name,
            state=WorkerState.ALIVE if worker.is_alive else WorkerState.SILENT,
            draining=worker.is_draining,
            busy=worker.job_id is not None,
            current_job=worker.job_id if is_visible else None,
            device=None if worker.device is None else DeviceView(**asdict(worker.device)),
            queues=list(worker.queues),
            version=worker.version,
            torch_version=worker.torch_version,
            started_at=time_of(worker.started_at),
            seen_at=time_of(worker.seen_at),
        )


class WorkerList(BaseModel):
    """Workers, by name."""

    workers: list[WorkerView]


class QueueView(BaseModel):
    """A queue."""

    name: str = Field(examples=["momentum-convert"])
    queued: int = Field(description="Jobs of all tenants that wait.")
    running: int
    oldest_wait_seconds: float | None = Field(description="Null where no job waits.")
    paused: bool
    paused_at: datetime | None

    @classmethod
    def of(cls, queue: QueueState) -> Self:
        """Show a queue."""
        waited = queue.oldest_seconds
        return cls(
            name=queue.name,
            queued=queue.num_queued,
            running=queue.num_running,
            oldest_wait_seconds=None if waited is None else max(waited, 0.0),
            paused=queue.paused_at is not None,
            paused_at=optional_time(queue.paused_at),
        )


class QueueList(BaseModel):
    """Queues, by name."""

    queues: list[QueueView]
