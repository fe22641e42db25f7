"""The whole service in numbers, for whoever watches it: of all tenants, and naming none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Engine, case, func, select

from worker.contract.database import database_now, reading
from worker.contract.ended_jobs import count_ended
from worker.contract.job import JobState
from worker.contract.queue_store import QueueState, QueueStore
from worker.contract.tables import (
    artifacts,
    events,
    jobs,
    uploads,
    webhook_deliveries,
    workers,
)
from worker.contract.webhook_store import DeliveryState
from worker.contract.worker_store import SILENT_SECONDS, kind_of

RECENT_SECONDS = 3600.0
"""How long ago a job may have ended whose times are looked at."""

MAX_RECENT = 200
"""Jobs whose times are looked at, the newest: more would cost more and say the same."""

DEVICES = ("cpu", "cuda")
"""What workers usually compute on: counted also where there are none."""

_BOUNDS = ("started", "stage", "requeued", *(state for state in JobState if state.is_final))
"""Kinds of events that a stage begins or ends with."""


class WorkerState(StrEnum):
    """What may be expected of a worker."""

    ALIVE = "alive"
    DRAINING = "draining"
    """It is heard of, and takes no job."""
    SILENT = "silent"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurrentFigures:
    """What changes from one second to the next, and is cheap to ask for."""

    queues: list[QueueState]
    workers: dict[tuple[str, WorkerState], int]
    """By kind of device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlowFigures:
    """What takes the longer the more jobs the record holds."""

    ended: dict[JobState, int]
    """Since the record was made."""
    deliveries: dict[DeliveryState, int]
    upload_bytes: int
    artifact_bytes: int
    recent: RecentFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentFigures:
    """One number for each of the `MAX_RECENT` newest jobs that ended within `RECENT_SECONDS`."""

    wait_seconds: list[float]
    """From the request to the (last) start."""
    job_seconds: list[float]
    """From the (last) start to the end, of those that succeeded; so are all that follow."""
    stage_seconds: dict[str, list[float]]
    peak_bytes: dict[str, list[float]]
    """Of a training step, by network."""


class ServiceFigures:
    """What the record says; nothing is written, and no writer waits."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._reader = reading(engine)
        self._queues = QueueStore(engine)

    def current(self) -> CurrentFigures:
        """Return what changes quickly."""
        with self._reader.connect() as connection:
            found = _count_workers(connection)
        return CurrentFigures(queues=self._queues.all(), workers=found)

    def slow(self) -> SlowFigures:
        """Return what takes longer: a quarter of a second with 100,000 jobs."""
        with self._reader.connect() as connection:
            sent = connection.scalar(select(func.sum(uploads.c.num_bytes)))
            made = connection.scalar(select(func.sum(artifacts.c.num_bytes)))
            return SlowFigures(
                ended=count_ended(connection),
                deliveries=_count_deliveries(connection),
                upload_bytes=int(sent or 0),
                artifact_bytes=int(made or 0),
                recent=_recent_figures(connection),
            )


def _count_workers(connection: Connection) -> dict[tuple[str, WorkerState], int]:
    state = case(
        (workers.c.seen_at <= database_now() - SILENT_SECONDS, WorkerState.SILENT),
        (workers.c.is_draining, WorkerState.DRAINING),
        else_=WorkerState.ALIVE,
    )
    counts = Counter({(device, each): 0 for device in DEVICES for each in WorkerState})
    # A worker that has just started does not know its own yet.
    for device, found in connection.execute(select(workers.c.device, state)):
        kind = kind_of(device) if device else "unknown"
        counts[kind, WorkerState(found)] += 1
    return dict(counts)


def _count_deliveries(connection: Connection) -> dict[DeliveryState, int]:
    column = webhook_deliveries.c.state
    counted = connection.execute(select(column, func.count()).group_by(column))
    found: dict[str, int] = dict(counted.all())
    return {state: found.get(state, 0) for state in DeliveryState}


def _recent_figures(connection: Connection) -> RecentFigures:
    # By value: PostgreSQL uses no index for what is compared with a clock that goes on.
    now: float | None = connection.scalar(select(database_now()))
    assert now is not None
    query = (
        select(
            jobs.c.id,
            # Not among the conditions: SQLite would take that column's index, and sort all of it.
            jobs.c.state,
            (jobs.c.started_at - jobs.c.created_at).label("wait_seconds"),
            (jobs.c.finished_at - jobs.c.started_at).label("job_seconds"),
            jobs.c.result["peak_bytes", "original"].as_float().label("original"),
            jobs.c.result["peak_bytes", "momentum"].as_float().label("momentum"),
        )
        .where(jobs.c.finished_at > now - RECENT_SECONDS)
        .order_by(jobs.c.finished_at.desc())
        .limit(MAX_RECENT)
    )
    ended = connection.execute(query).all()
    succeeded = [row for row in ended if row.state == JobState.SUCCEEDED]
    peaks = {name: [getattr(row, name) for row in succeeded] for name in ("original", "momentum")}
    return RecentFigures(
        wait_seconds=[row.wait_seconds for row in ended if row.wait_seconds is not None],
        job_seconds=[row.job_seconds for row in succeeded],
        stage_seconds=_stage_seconds(connection, [row.id for row in succeeded]),
        peak_bytes={name: [one for one in peaks[name] if one is not None] for name in peaks},
    )


def _stage_seconds(connection: Connection, job_ids: Collection[str]) -> dict[str, list[float]]:
    """Return how long each visit of a stage took: to the next event that begins or ends one."""
    until = func.lead(events.c.at).over(partition_by=events.c.job_id, order_by=events.c.number)
    bounds = (
        select(
            events.c.data["stage"].as_string().label("stage"),
            (until - events.c.at).label("seconds"),
        )
        .where(events.c.job_id.in_(job_ids), events.c.kind.in_(_BOUNDS))
        .subquery()
    )
    found: dict[str, list[float]] = defaultdict(list)
    query = select(bounds).where(bounds.c.stage.is_not(None), bounds.c.seconds.is_not(None))
    for stage, seconds in connection.execute(query):
        found[stage].append(seconds)
    return dict(found)
