"""Finds jobs whose worker fell silent, and queues them again.

A worker renews its lease several times before it ends. Whether it still does is seen by watching:
a lease that nobody has renewed for as long as it lasts, by the monotonic clock of whoever watches,
is over. No two clocks are compared, so none that jumps gives a job to two workers, or to none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, Row, and_, select
from sqlalchemy.exc import SQLAlchemyError

from momentum_core.failpoints import reach
from worker.contract.database import reading
from worker.contract.job import JobError, JobState
from worker.contract.job_claims import change_all_cancelled, ended, requeued
from worker.contract.job_record import announce, change_job
from worker.contract.tables import jobs

ATTEMPTS_EXHAUSTED = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class _Lease:
    """A lease as it was found."""

    job_id: str
    fence: int
    until: float
    attempt: int


class LeaseWatch:
    """Watches the leases of all running jobs; several may do so at once."""

    def __init__(
        self,
        engine: Engine,
        *,
        lease_seconds: float,
        max_attempts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch a record.

        Args:
            engine: the record.
            lease_seconds: how long a lease lasts.
            max_attempts: a job whose worker was lost in so many attempts has failed.
            clock: seconds since whenever, never set back.
        """
        self._engine = engine
        self._reader = reading(engine)
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts
        self._clock = clock
        self._seen: dict[_Lease, float] = {}

    def requeue_expired(self) -> int:
        """Look at all leases; queue jobs again whose lease is over, or end them.

        The first look at a lease only notes it: whoever has just begun to watch does not know yet
        how long it has been so.

        Returns:
            How many jobs changed.
        """
        query = select(jobs.c.id, jobs.c.fence, jobs.c.lease_until, jobs.c.attempt)
        # Before it is read: what is renewed meanwhile was renewed later than this.
        now = self._clock()
        with self._reader.connect() as connection:
            found = [
                _lease_of(row)
                for row in connection.execute(query.where(jobs.c.state == JobState.RUNNING))
            ]
        self._seen = {lease: self._seen.get(lease, now) for lease in found}
        over = [one for one, since in self._seen.items() if now - since >= self._lease_seconds]
        try:
            return sum(self._take_back(lease) for lease in over)
        except SQLAlchemyError:
            # Where this cannot write, no worker could renew: they have their time once more.
            self._seen.clear()
            raise

    def _take_back(self, lease: _Lease) -> bool:
        reach("relay.requeue")
        held = and_(
            jobs.c.id == lease.job_id,
            jobs.c.state == JobState.RUNNING,
            jobs.c.fence == lease.fence,
            jobs.c.lease_until == lease.until,
        )
        with self._engine.begin() as connection:
            if change_all_cancelled(connection, held):
                return True
            if lease.attempt >= self._max_attempts:
                error = _exhausted(lease.attempt)
                values = (
                    requeued()
                    | ended(JobState.FAILED)
                    | {
                        "stage": jobs.c.stage,
                        "error_code": error.code,
                        "error_message": error.message,
                    }
                )
                row = change_job(connection, held, values, kind="failed", data=asdict(error))
                return row is not None
            lost = {"reason": "worker_lost"}
            if change_job(connection, held, requeued(), kind="requeued", data=lost) is None:
                return False
            announce(connection, lease.job_id)
            return True


def _lease_of(row: Row[Any, Any, Any, Any]) -> _Lease:
    assert row.lease_until is not None, "a running job has a lease"
    return _Lease(row.id, row.fence, row.lease_until, row.attempt)


def _exhausted(attempts: int) -> JobError:
    return JobError(
        code=ATTEMPTS_EXHAUSTED,
        message=f"the worker died in each of {attempts} attempts; look into the worker's log for "
        "the reason (often too little memory: try a smaller measurement.batch_size)",
    )
