"""The workers that there are: each says so itself, and is asked here whether it is to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, delete, insert, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import JobState
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.tables import jobs, workers

SILENT_SECONDS = 15.0
"""A worker that has not been heard of for this long is silent: it was killed, or is cut off."""

FORGET_SECONDS = 3600.0
"""A worker that has been silent for this long is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a worker computes on."""

    name: str
    """`cpu`, `cuda:1`."""
    model: str
    """As its maker names it."""
    memory_bytes: int
    num_threads: int
    datasets: tuple[str, ...] = ()
    """Names of the registered data sets that are at hand there."""


def kind_of(device: str) -> str:
    """Return the kind of a device: `cuda:1` is a GPU like any other."""
    return device.partition(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker process that takes jobs; times are seconds since 1970 by the database's clock."""

    name: str
    """Host and process: what jobs are claimed under."""
    queues: tuple[str, ...]
    version: str
    torch_version: str
    device: Device | None
    """None until the process that computes has found it."""
    started_at: float
    seen_at: float
    is_alive: bool
    is_draining: bool
    """Whether it finishes its job and takes no other."""
    job_id: str | None
    """What it works on."""
    job_tenant: str | None


_WORKERS = (
    select(
        workers,
        (workers.c.seen_at > database_now() - SILENT_SECONDS).label("is_alive"),
        jobs.c.id.label("job_id"),
        jobs.c.tenant.label("job_tenant"),
    )
    .outerjoin(jobs, and_(jobs.c.worker == workers.c.name, jobs.c.state == JobState.RUNNING))
    .order_by(workers.c.name)
)


def datasets_at_hand(workers: Sequence[Worker]) -> dict[str, int]:
    """Return the names of all registered data sets, sorted, with the number of workers of each."""
    names = (name for one in workers if one.device is not None for name in one.device.datasets)
    return dict(sorted(Counter(names).items()))


def has_idle_worker(
    connection: Connection, lane: str, *, memory_bytes: int, dataset: str | None
) -> bool:
    """Return whether a worker that takes jobs of a lane and has what they need waits for one."""
    has_job = select(jobs.c.id).where(
        jobs.c.worker == workers.c.name, jobs.c.state == JobState.RUNNING
    )
    idle = select(workers.c.queues, workers.c.device, workers.c.datasets).where(
        workers.c.device_bytes >= memory_bytes,
        workers.c.seen_at > database_now() - SILENT_SECONDS,
        ~workers.c.is_draining,
        ~has_job.exists(),
    )
    # An inspection worker is one, too, and is never busy with a job.
    return any(
        CONVERT_QUEUE in row.queues
        and lane in ("any", kind_of(row.device))
        and (dataset is None or dataset in row.datasets)
        for row in connection.execute(idle)
    )


def kinds_at_work(connection: Connection) -> set[str] | None:
    """Return the kinds of device that living workers compute on; None: one does not know it yet."""
    alive = select(workers.c.queues, workers.c.device).where(
        workers.c.seen_at > database_now() - SILENT_SECONDS
    )
    devices = [row.device for row in connection.execute(alive) if CONVERT_QUEUE in row.queues]
    return None if None in devices else {kind_of(device) for device in devices}


class WorkerStore:
    """The workers' table; workers write it, and whoever runs the service."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def announce(
        self, name: str, *, queues: Sequence[str], version: str, torch_version: str
    ) -> None:
        """Show a worker that starts, in the place of an earlier one of its name."""
        row = {
            "name": name,
            "queues": sorted(queues),
            "version": version,
            "torch_version": torch_version,
            "is_draining": False,
        }
        with self._engine.begin() as connection:
            connection.execute(delete(workers).where(workers.c.name == name))
            connection.execute(
                insert(workers).values(started_at=database_now(), seen_at=database_now(), **row)
            )

    def describe(self, name: str, device: Device) -> bool:
        """Say what a worker computes on; False if it has not announced itself (yet)."""
        values = {
            "device": device.name,
            "device_model": device.model,
            "device_bytes": device.memory_bytes,
            "num_threads": device.num_threads,
            "datasets": list(device.datasets),
        }
        with self._engine.begin() as connection:
            mine = update(workers).where(workers.c.name == name)
            return connection.execute(mine.values(values)).rowcount == 1

    def beat(self, name: str) -> Worker | None:
        """Say that a worker lives; return it, or None if it is not known."""
        with self._engine.begin() as connection:
            connection.execute(
                update(workers).where(workers.c.name == name).values(seen_at=database_now())
            )
        return self._find(name)

    def leave(self, name: str) -> None:
        """Forget a worker that ends."""
        with self._engine.begin() as connection:
            connection.execute(delete(workers).where(workers.c.name == name))

    def all(self) -> list[Worker]:
        """Return all workers, by name."""
        with self._reader.connect() as connection:
            return [_worker_of(row) for row in connection.execute(_WORKERS)]

    def set_draining(self, name: str, *, draining: bool) -> Worker:
        """Have a worker take no new job, or take jobs again.

        Raises:
            LookupError: there is none of this name.
        """
        with self._engine.begin() as connection:
            mine = update(workers).where(workers.c.name == name)
            connection.execute(mine.values(is_draining=draining))
        found = self._find(name)
        if found is None:
            raise LookupError("no such worker")
        return found

    def _find(self, name: str) -> Worker | None:
        with self._reader.connect() as connection:
            row = connection.execute(_WORKERS.where(workers.c.name == name)).one_or_none()
        return None if row is None else _worker_of(row)


def _worker_of(row: Row[Any]) -> Worker:
    device = row.device and Device(
        name=row.device,
        model=row.device_model,
        memory_bytes=row.device_bytes,
        num_threads=row.num_threads,
        datasets=tuple(row.datasets),
    )
    return Worker(
        name=row.name,
        queues=tuple(row.queues),
        version=row.version,
        torch_version=row.torch_version,
        device=device,
        started_at=row.started_at,
        seen_at=row.seen_at,
        is_alive=row.is_alive,
        is_draining=row.is_draining,
        job_id=row.job_id,
        job_tenant=row.job_tenant,
    )
