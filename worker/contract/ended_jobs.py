"""How many jobs have ended so far: a number that never falls, though jobs are forgotten."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, union_all, update

from worker.contract.job import JobState
from worker.contract.job_record import forget_job
from worker.contract.tables import forgotten_jobs, jobs

ENDS = tuple(state for state in JobState if state.is_final)

_KEPT = (
    select(jobs.c.state, func.count().label("num_jobs"))
    .where(jobs.c.state.in_(ENDS))
    .group_by(jobs.c.state)
)
# One statement sees a job either here or there, whoever forgets it meanwhile.
_ALL = union_all(_KEPT, select(forgotten_jobs.c.state, forgotten_jobs.c.num_jobs)).subquery()
_ENDED = select(_ALL.c.state, func.sum(_ALL.c.num_jobs)).group_by(_ALL.c.state)


def forget_ended_job(connection: Connection, job_id: str) -> bool:
    """Remove a job that has ended, as `forget_job` does, and keep count of it."""
    # Until this transaction ends, nobody else changes it.
    mine = select(jobs.c.state).where(jobs.c.id == job_id).with_for_update()
    state = connection.scalar(mine)
    if not forget_job(connection, job_id):
        return False
    connection.execute(
        update(forgotten_jobs)
        .where(forgotten_jobs.c.state == state)
        .values(num_jobs=forgotten_jobs.c.num_jobs + 1)
    )
    return True


def count_ended(connection: Connection) -> dict[JobState, int]:
    """Return how many jobs have ended in each state, since the record was made."""
    found = {state: int(number) for state, number in connection.execute(_ENDED)}
    return {state: found.get(state, 0) for state in ENDS}
