"""Which queued job a free worker takes: a message only wakes it, the record decides.

Among the jobs of the message's lane: first those of the tenant with the fewest running jobs, so
that who sends a thousand does not keep out who sends one; of a tenant's, the most urgent, and of
these the oldest. Claims at the very same moment may see the same counts.
"""

from __future__ import annotations

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    and_,
    func,
    or_,
    select,
)

from worker.contract.job import JobState
from worker.contract.queue_store import WAITING_FOR_WORKER
from worker.contract.request import REQUEST_VERSION
from worker.contract.tables import jobs, workers

MAX_TENANTS = 50
"""Tenants whose jobs are tried, should others take them at this moment."""


def choose_job(connection: Connection, announced: str, lane: str, *, worker: str) -> str | None:
    """Return the id of the job to take, or None; on PostgreSQL its row is locked.

    Args:
        connection: in a transaction.
        announced: id of the job whose message came: the one that may be taken although it waits
            for something.
        lane: of that job.
        worker: who asks.
    """
    can_be_done = doable_by(worker)
    may_start = or_(
        jobs.c.waiting_for.is_(None),
        jobs.c.waiting_for == WAITING_FOR_WORKER,
        jobs.c.id == announced,
    )
    wanted = and_(jobs.c.state == JobState.QUEUED, jobs.c.lane == lane, may_start, can_be_done)
    for tenant in _tenants_in_turn(connection, lane, wanted):
        mine = and_(wanted, jobs.c.tenant == tenant)
        query = select(jobs.c.id).where(mine).order_by(*_IN_TURN).limit(1)
        found = connection.scalar(query.with_for_update(skip_locked=True))
        if found is not None:
            return str(found)
    return None


def doable_by(worker: str) -> ColumnElement[bool]:
    """Return the condition that a worker can do a job, as far as the record knows the two."""
    memory = select(workers.c.device_bytes).where(workers.c.name == worker).scalar_subquery()
    return and_(
        jobs.c.request_version <= REQUEST_VERSION,
        or_(jobs.c.memory_bytes.is_(None), memory.is_(None), jobs.c.memory_bytes <= memory),
    )


_IN_TURN = (jobs.c.priority_rank, jobs.c.created_at, jobs.c.id)


def _tenants_in_turn(connection: Connection, lane: str, wanted: ColumnElement[bool]) -> list[str]:
    """Return the tenants that have such jobs: with the fewest running, then the longest waiting."""
    waiting = _waiting_tenants(lane)
    running = (
        select(jobs.c.tenant, func.count().label("num_running"))
        .where(jobs.c.state == JobState.RUNNING)
        .group_by(jobs.c.tenant)
        .subquery()
    )
    first = (
        select(jobs.c.created_at)
        .where(wanted, jobs.c.tenant == waiting.c.tenant)
        .order_by(*_IN_TURN)
        .limit(1)
        .scalar_subquery()
    )
    in_turn = (
        select(
            waiting.c.tenant,
            func.coalesce(running.c.num_running, 0).label("num_running"),
            first.label("since"),
        )
        .outerjoin(running, running.c.tenant == waiting.c.tenant)
        .where(waiting.c.tenant.is_not(None))
        .subquery()
    )
    query = (
        select(in_turn.c.tenant)
        .where(in_turn.c.since.is_not(None))
        .order_by(in_turn.c.num_running, in_turn.c.since)
        .limit(MAX_TENANTS)
    )
    return list(connection.scalars(query))


def _waiting_tenants(lane: str) -> CTE:
    """Return the tenants with queued jobs of a lane, and a null: one look at the index for each.

    DISTINCT would read all their jobs (PostgreSQL's wiki, "Loose indexscan").
    """
    queued = and_(jobs.c.state == JobState.QUEUED, jobs.c.lane == lane)
    least = select(func.min(jobs.c.tenant)).where(queued).scalar_subquery()
    found = select(least.label("tenant")).cte("waiting", recursive=True)
    others = jobs.alias()
    next_one = (
        select(func.min(others.c.tenant))
        .where(
            others.c.state == JobState.QUEUED,
            others.c.lane == lane,
            others.c.tenant > found.c.tenant,
        )
        .scalar_subquery()
    )
    return found.union_all(select(next_one).where(found.c.tenant.is_not(None)))
