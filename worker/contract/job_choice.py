"""Which queued job a free worker takes: a message only wakes it, the record decides.

First those of the tenant with the fewest running jobs, among such tenants the one that was served
longest ago: so who sends a thousand does not keep out who sends one, however few workers there are.
Of a tenant's jobs the most urgent, and of these the oldest. Claims at the very same moment may see
the same counts.
"""

from __future__ import annotations

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    and_,
    func,
    not_,
    or_,
    select,
    true,
)

from worker.contract.job import JobState
from worker.contract.job_record import is_announced
from worker.contract.request import REQUEST_VERSION
from worker.contract.tables import jobs
from worker.contract.worker_store import Device, kind_of

MAX_TENANTS = 50
"""Tenants whose jobs are tried in turn, should others take them at this moment."""


def choose_job(connection: Connection, announced: str, *, device: Device | None) -> str | None:
    """Return the id of the job to take, or None; on PostgreSQL its row is locked.

    Args:
        connection: in a transaction.
        announced: id of the job whose message came: the one that may be taken although it waits
            for something.
        device: of who asks; None can do everything.
    """
    may_start = or_(is_announced(), jobs.c.id == announced)
    wanted = and_(
        jobs.c.state == JobState.QUEUED, in_reach_of(device), may_start, doable_by(device)
    )
    in_turn = _tenants_in_turn(connection, wanted, device)[:MAX_TENANTS]
    # Should others have all of those at this moment: whatever is left, of whomever.
    for condition in (*(jobs.c.tenant == tenant for tenant in in_turn), true()):
        query = select(jobs.c.id).where(wanted, condition).order_by(*_IN_TURN).limit(1)
        # No more than the update takes: a message for the job may be written meanwhile.
        found = connection.scalar(query.with_for_update(skip_locked=True, key_share=True))
        if found is not None or not in_turn:
            return found
    return None


def in_reach_of(device: Device | None) -> ColumnElement[bool]:
    """Return the condition that a job is for a kind of device."""
    return true() if device is None else jobs.c.lane.in_(("any", kind_of(device.name)))


def doable_by(device: Device | None) -> ColumnElement[bool]:
    """Return the condition that a job asks for no more than this program knows and a device has."""
    known = jobs.c.request_version <= REQUEST_VERSION
    if device is None:
        return known
    return and_(
        known, or_(jobs.c.memory_bytes.is_(None), jobs.c.memory_bytes <= device.memory_bytes)
    )


def beyond(device: Device | None) -> ColumnElement[bool]:
    """Return the condition that a job is for another worker: a newer or a larger one."""
    return and_(in_reach_of(device), not_(doable_by(device)))


_IN_TURN = (jobs.c.priority_rank, jobs.c.created_at, jobs.c.id)


def _tenants_in_turn(
    connection: Connection, wanted: ColumnElement[bool], device: Device | None
) -> list[str]:
    """Return the tenants that have such jobs, whose turn it is first."""
    waiting = _waiting_tenants(device)
    running = (
        select(jobs.c.tenant, func.count().label("num_running"))
        .where(jobs.c.state == JobState.RUNNING)
        .group_by(jobs.c.tenant)
        .subquery()
    )
    own = jobs.c.tenant == waiting.c.tenant
    served = select(func.max(jobs.c.started_at)).where(own).scalar_subquery()
    first = (
        select(jobs.c.created_at).where(wanted, own).order_by(*_IN_TURN).limit(1).scalar_subquery()
    )
    query = (
        select(
            waiting.c.tenant,
            func.coalesce(running.c.num_running, 0).label("num_running"),
            func.coalesce(served, 0.0).label("served_at"),
            first.label("since"),
        )
        .outerjoin(running, running.c.tenant == waiting.c.tenant)
        .where(waiting.c.tenant.is_not(None))
        # By name, or each would be looked for again.
        .order_by("num_running", "served_at", "since")
    )
    return [row.tenant for row in connection.execute(query) if row.since is not None]


def _waiting_tenants(device: Device | None) -> CTE:
    """Return the tenants with queued jobs, and a null: one look at the index for each.

    DISTINCT would read all their jobs (PostgreSQL's wiki, "Loose indexscan").
    """
    queued = and_(jobs.c.state == JobState.QUEUED, in_reach_of(device))
    least = select(func.min(jobs.c.tenant)).where(queued).scalar_subquery()
    found = select(least.label("tenant")).cte("waiting", recursive=True)
    next_one = (
        select(func.min(jobs.c.tenant)).where(queued, jobs.c.tenant > found.c.tenant)
    ).scalar_subquery()
    return found.union_all(select(next_one).where(found.c.tenant.is_not(None)))
