"""Which queued job a free worker takes: a message only wakes it, the record decides.

First those of the tenant with the fewest running jobs, among such tenants the one that was served
longest ago: so who sends a thousand does not keep out who sends one, however few workers there are.
Of a tenant's jobs the most urgent, and of these the oldest. Claims at the very same moment may see
the same counts.
"""

from __future__ import annotations

from itertools import chain

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
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from worker.contract.database import database_now
from worker.contract.job import JobState
from worker.contract.job_record import is_announced
from worker.contract.request import REQUEST_VERSION
from worker.contract.tables import jobs, tenants
from worker.contract.worker_store import Device, kind_of

MAX_TENANTS = 50
"""Tenants whose jobs are tried in turn."""


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
    in_turn = _tenants_in_turn(connection, device)
    # Should others have all of those at this moment, or none be doable: whatever is left.
    for condition in chain((jobs.c.tenant == tenant for tenant in in_turn), (true(),)):
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
    """Return the condition that a job asks for no more than this program knows and a device has.

    A registered data set counts to the device: it is there where that is.
    """
    known = jobs.c.request_version <= REQUEST_VERSION
    if device is None:
        return known
    return and_(
        known,
        or_(jobs.c.memory_bytes.is_(None), jobs.c.memory_bytes <= device.memory_bytes),
        or_(jobs.c.dataset.is_(None), jobs.c.dataset.in_(device.datasets)),
    )


def beyond(device: Device | None) -> ColumnElement[bool]:
    """Return the condition that a job is for another worker: a newer or a larger one."""
    return and_(in_reach_of(device), not_(doable_by(device)))


_IN_TURN = (jobs.c.priority_rank, jobs.c.created_at, jobs.c.id)


def note_served(connection: Connection, tenant: str) -> None:
    """Remember that a job of a tenant starts now: others come first next time."""
    now = {"served_at": database_now()}
    mine = select(tenants.c.name).where(tenants.c.name == tenant)
    # Who claims another job of the tenant at this moment writes the same: nobody waits for that.
    free = mine.with_for_update(skip_locked=True)
    noted = connection.execute(update(tenants).where(tenants.c.name.in_(free)).values(now))
    if noted.rowcount == 0:
        is_on_sqlite = connection.dialect.name == "sqlite"
        make = sqlite_insert(tenants) if is_on_sqlite else postgresql_insert(tenants)
        connection.execute(make.values(name=tenant, **now).on_conflict_do_nothing())


def _tenants_in_turn(connection: Connection, device: Device | None) -> list[str]:
    """Return the tenants with queued jobs for a kind of device, whose turn it is first."""
    waiting = _waiting_tenants(device)
    running = (
        select(jobs.c.tenant, func.count().label("num_running"))
        .where(jobs.c.state == JobState.RUNNING)
        .group_by(jobs.c.tenant)
        .subquery()
    )
    query = (
        select(waiting.c.tenant)
        .outerjoin(running, running.c.tenant == waiting.c.tenant)
        .outerjoin(tenants, tenants.c.name == waiting.c.tenant)
        .where(waiting.c.tenant.is_not(None))
        .order_by(
            func.coalesce(running.c.num_running, 0),
            func.coalesce(tenants.c.served_at, 0.0),
            waiting.c.tenant,
        )
        .limit(MAX_TENANTS)
    )
    return list(connection.scalars(query))


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
