"""The queues that jobs wait in, and whether they are paused.

Pausing writes one row. Claims look at it (`JobClaims.claim`), and the relay tells the jobs that
wait (`Outbox.settle_paused`): neither takes longer because many jobs wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, case, func, or_, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import JobState
from worker.contract.messages import CONVERT_QUEUE, LANES, Lane
from worker.contract.tables import jobs, queues, workers

WAITING_FOR_QUEUE = "queue"
"""What a job waits for whose queue is paused."""

WAITING_FOR_SPACE = "space"
"""What a job waits for that found the disk full."""

WAITING_FOR_WORKER = "worker"
"""What a job waits for that asks for more than the workers that saw it know or have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """A queue as it is now."""

    name: str
    num_queued: int
    num_running: int
    oldest_seconds: float | None
    """How long the job that was asked for first has waited; None: none waits."""
    oldest_by_lane: dict[Lane, float | None]
    """The same of the jobs for any worker, and of those for a kind of device."""
    paused_at: float | None
    """Seconds since 1970 by the database's clock; None: it is not paused."""


class QueueStore:
    """The queues, for whoever runs the service."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def all(self) -> list[QueueState]:
        """Return all queues, by name."""
        # Every job waits in the one queue that there is for jobs.
        # Those that wait for space would have no use for more workers.
        waits_for_worker = and_(
            jobs.c.state == JobState.QUEUED,
            or_(jobs.c.waiting_for.is_(None), jobs.c.waiting_for != WAITING_FOR_SPACE),
        )
        since = {
            lane: database_now()
            - func.min(case((and_(waits_for_worker, jobs.c.lane == lane), jobs.c.created_at)))
            for lane in LANES
        }
        counts = select(
            func.count(case((jobs.c.state == JobState.QUEUED, 1))).label("num_queued"),
            func.count(case((jobs.c.state == JobState.RUNNING, 1))).label("num_running"),
            *(since[lane].label(lane) for lane in LANES),
        ).where(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
        with self._reader.connect() as connection:
            found = connection.execute(select(queues).order_by(queues.c.name)).all()
            counted = connection.execute(counts).one()
        oldest: dict[Lane, float | None] = {lane: counted._mapping[lane] for lane in LANES}
        return [
            QueueState(
                name=row.name,
                num_queued=counted.num_queued,
                num_running=counted.num_running,
                oldest_seconds=max(filter(None, oldest.values()), default=None),
                oldest_by_lane=oldest,
                paused_at=row.paused_at,
            )
            for row in found
        ]

    def set_paused(self, name: str, *, paused: bool) -> QueueState:
        """Pause a queue, or let its jobs start again; a job that runs goes on.

        Once this has returned, no job of a paused queue starts.

        Raises:
            LookupError: there is none of this name.
        """
        # One that is paused already stays so since when it was.
        since = func.coalesce(queues.c.paused_at, database_now()) if paused else None
        with self._engine.begin() as connection:
            changed = update(queues).where(queues.c.name == name).values(paused_at=since)
            if not connection.execute(changed).rowcount:
                raise LookupError("no such queue")
        return next(one for one in self.all() if one.name == name)


_PAUSED = select(queues.c.paused_at).where(queues.c.name == CONVERT_QUEUE)


def is_paused_now(connection: Connection) -> bool:
    """Return whether jobs may not start; that may change at any time."""
    return connection.scalar(_PAUSED) is not None


def is_paused(connection: Connection) -> bool:
    """Return whether jobs may not start; that stays so for as long as the transaction lasts."""
    # On PostgreSQL pausing waits for this transaction; SQLite has one writer anyway.
    return connection.scalar(_PAUSED.with_for_update(read=True)) is not None


def is_draining(connection: Connection, worker: str) -> bool:
    """Return whether a worker may not take a job, for as long as the transaction lasts."""
    query = select(workers.c.is_draining).where(workers.c.name == worker)
    found: Any = connection.scalar(query.with_for_update(read=True))
    return bool(found)
