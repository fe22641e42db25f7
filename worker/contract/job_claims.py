"""What a worker writes to the job record: every write carries the fence of its claim.

A claim is lost when its lease ends and the job goes to somebody else. The late worker's next write
then changes nothing and raises `ClaimLostError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, insert, select, update

from momentum_core.failpoints import reach, record_execution
from worker.contract.database import database_now, reading
from worker.contract.job import Artifact, Claim, Job, JobError, JobState, Stage, Upload
from worker.contract.job_choice import beyond, choose_job, in_reach_of, note_served
from worker.contract.job_record import (
    announce,
    cancelled,
    change_job,
    is_announced,
    read_job,
    read_upload,
)
from worker.contract.queue_store import (
    WAITING_FOR_SPACE,
    WAITING_FOR_WORKER,
    is_draining,
    is_paused,
)
from worker.contract.request import REQUEST_VERSION
from worker.contract.tables import artifacts, events, jobs, uploads
from worker.contract.worker_store import Device, has_idle_worker

MAX_SPACE_WAITS = 10
"""How often a job may find the disk full before it has failed."""


class ClaimLostError(Exception):
    """The job is not this worker's any more: it must stop, and has nothing left to write."""


class JobCancelledError(Exception):
    """The user does not want the job any more."""


class JobClaims:
    """The worker's side of the record."""

    def __init__(self, engine: Engine, *, lease_seconds: float) -> None:
        """Take claims of `lease_seconds`."""
        self.engine = engine
        self._reader = reading(engine)
        self._lease_seconds = lease_seconds

    def claim(self, job_id: str, *, worker: str, device: Device | None = None) -> Claim | None:
        """Take the queued job whose turn it is, as a message says that there are some.

        Args:
            job_id: whose message it was; there may be others whose turn comes first.
            worker: who takes it.
            device: what that computes on; None can do everything.

        Returns:
            The claim, or None if there is none to be had: a repeated message changes nothing. Nor
            is one while the queue is paused, for a worker that is draining, or if what is left
            needs a newer or a larger worker.
        """
        with self.engine.begin() as connection:
            if is_paused(connection):
                return None  # the relay announces it again once the queue goes on
            if is_draining(connection, worker):
                _leave_to_others(connection, job_id, device)
                return None
            chosen = choose_job(connection, job_id, device=device)
            if chosen is None:
                _leave_to_better(connection, device)
                return None
            row = change_job(
                connection,
                and_(jobs.c.id == chosen, jobs.c.state == JobState.QUEUED),
                {
                    "state": JobState.RUNNING,
                    "stage": None,
                    "progress": 0.0,
                    "waiting_for": None,
                    "attempt": jobs.c.attempt + 1,
                    "fence": jobs.c.fence + 1,
                    "worker": worker,
                    "lease_until": database_now() + self._lease_seconds,
                    "started_at": database_now(),
                },
                kind="started",
                data={"worker": worker},
            )
            if row is not None:
                note_served(connection, row.tenant)
            reach("claim.uncommitted")
        if row is None:
            return None
        record_execution(f"claimed {row.id} {row.fence}")
        reach("claim.taken")
        return Claim(
            job_id=row.id, worker=worker, fence=row.fence, attempt=row.attempt, origin=row.origin
        )

    def read(self, claim: Claim) -> tuple[Job, Upload | None, Upload | None]:
        """Return the job, the checkpoint and the data set that were sent for it."""
        with self._reader.connect() as connection:
            job = read_job(connection, jobs.c.id == claim.job_id)
            found = {
                row.id: read_upload(row)
                for row in connection.execute(
                    select(uploads).where(uploads.c.id.in_([job.checkpoint_id, job.data_id]))
                )
            }
        return job, found.get(job.checkpoint_id or ""), found.get(job.data_id or "")

    def renew(self, claim: Claim) -> bool:
        """Extend the lease; False if the claim is lost."""
        with self.engine.begin() as connection:
            renewed = connection.execute(
                update(jobs)
                .where(_held(claim))
                .values(lease_until=database_now() + self._lease_seconds)
            )
        return renewed.rowcount == 1

    def is_cancel_requested(self, claim: Claim) -> bool:
        """Return whether the job is to stop."""
        query = select(jobs.c.cancel_requested).where(_held(claim))
        with self._reader.connect() as connection:
            return bool(connection.scalar(query))

    def enter_stage(self, claim: Claim, stage: Stage, *, progress: float) -> None:
        """Record that a stage begins.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        self._change(
            claim, {"stage": stage, "progress": progress}, kind="stage", data={"stage": stage}
        )

    def record_progress(self, claim: Claim, *, progress: float, data: Mapping[str, Any]) -> None:
        """Record how far the stage has come, with its figures.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        self._change(claim, {"progress": progress}, kind="progress", data=data)

    def succeed(
        self, claim: Claim, *, result: Mapping[str, Any], files: Iterable[Artifact]
    ) -> None:
        """End the job well and publish its files, which lie in the store already.

        Raises:
            ClaimLostError: the job is somebody else's; nothing is published.
        """
        values = {"stage": None, "progress": 1.0, "result": dict(result)} | ended(
            JobState.SUCCEEDED
        )
        reach("publish.unrecorded")
        with self.engine.begin() as connection:
            if change_job(connection, _held(claim), values, kind="succeeded") is None:
                raise ClaimLostError
            for file in files:
                connection.execute(
                    insert(artifacts).values(
                        job_id=claim.job_id,
                        name=file.name,
                        blob_sha256=file.sha256,
                        num_bytes=file.num_bytes,
                        media_type=file.media_type,
                        created_at=database_now(),
                    )
                )
            reach("publish.uncommitted")
        record_execution(f"published {claim.job_id} {claim.fence}")
        reach("publish.done")

    def fail(self, claim: Claim, error: JobError) -> None:
        """End the job with an error that another attempt would meet again.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        self._change(
            claim,
            {"error_code": error.code, "error_message": error.message} | ended(JobState.FAILED),
            kind="failed",
            data={"code": error.code, "message": error.message},
        )

    def cancel(self, claim: Claim) -> None:
        """End the job because its user asked for it.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        self._change(claim, cancelled(), kind="cancelled", data={})

    def note(self, claim: Claim, kind: str, data: Mapping[str, Any]) -> None:
        """Record something that happened, and changes nothing.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        self._change(claim, {}, kind=kind, data=data)

    def wait_for_space(self, claim: Claim) -> bool:
        """Queue the job again, to go on once the disk has room; the attempt is not counted.

        Returns:
            False, with nothing changed, if it has waited `MAX_SPACE_WAITS` times already.

        Raises:
            ClaimLostError: the job is somebody else's.
        """
        reason = {"waiting_for": WAITING_FOR_SPACE}
        values = {"attempt": jobs.c.attempt - 1, **reason} | requeued()
        with self.engine.begin() as connection:
            if change_all_cancelled(connection, _held(claim)):
                return True
            waits = select(events.c.data).where(
                events.c.job_id == claim.job_id, events.c.kind == "waiting"
            )
            if list(connection.scalars(waits)).count(reason) >= MAX_SPACE_WAITS:
                return False
            if change_job(connection, _held(claim), values, kind="waiting", data=reason) is None:
                raise ClaimLostError
        return True

    def hand_back(self, worker: str) -> int:
        """Queue again what a worker is doing, because it is being stopped; no attempt is counted.

        Returns:
            How many jobs were handed back.
        """
        running = and_(jobs.c.worker == worker, jobs.c.state == JobState.RUNNING)
        handed_back = 0
        with self.engine.begin() as connection:
            change_all_cancelled(connection, running)
            for job_id in connection.scalars(select(jobs.c.id).where(running)).all():
                values = {"attempt": jobs.c.attempt - 1} | requeued()
                row = change_job(
                    connection,
                    and_(jobs.c.id == job_id, running),
                    values,
                    kind="requeued",
                    data={"reason": "worker_stopped"},
                )
                if row is not None:
                    announce(connection, job_id)
                    handed_back += 1
        return handed_back

    def _change(
        self, claim: Claim, values: Mapping[str, Any], *, kind: str, data: Mapping[str, Any]
    ) -> None:
        with self.engine.begin() as connection:
            if change_job(connection, _held(claim), values, kind=kind, data=data) is None:
                raise ClaimLostError


def _leave_to_better(connection: Connection, device: Device | None) -> None:
    """Say of the oldest job that asks for more than this worker has that it waits for another.

    If one is idle that could do it, that is called; else the job is announced again by the relay.
    """
    oldest = (
        select(jobs.c.id, jobs.c.lane, jobs.c.memory_bytes, jobs.c.dataset, jobs.c.request_version)
        .where(jobs.c.state == JobState.QUEUED, beyond(device), is_announced())
        .order_by(jobs.c.created_at)
        .limit(1)
    )
    job = connection.execute(oldest).one_or_none()
    if job is None:
        return
    unsaid = and_(
        jobs.c.id == job.id, jobs.c.state == JobState.QUEUED, jobs.c.waiting_for.is_(None)
    )
    reason = {"waiting_for": WAITING_FOR_WORKER}
    change_job(connection, unsaid, reason, kind="waiting", data=reason)
    if job.request_version > REQUEST_VERSION:
        return  # it needs a newer worker: the idle one that has all else may be this one
    least = job.memory_bytes or 0
    if has_idle_worker(connection, job.lane, memory_bytes=least, dataset=job.dataset):
        announce(connection, job.id)


def _leave_to_others(connection: Connection, job_id: str, device: Device | None) -> None:
    """Send the message of a job that waits once more: who took it may not take the job."""
    waits = and_(jobs.c.state == JobState.QUEUED, in_reach_of(device), is_announced())
    # Another's, if its own has been taken by another's message.
    own_first = (jobs.c.id != job_id, jobs.c.created_at)
    found = connection.scalar(select(jobs.c.id).where(waits).order_by(*own_first).limit(1))
    if found is not None:
        announce(connection, found)


def change_all_cancelled(connection: Connection, where: ColumnElement[bool]) -> int:
    """End running jobs that nobody works on and that were to be cancelled; return how many."""
    wanted = and_(where, jobs.c.cancel_requested)
    found = connection.scalars(select(jobs.c.id).where(wanted)).all()
    changed = (
        change_job(connection, and_(jobs.c.id == job_id, wanted), cancelled(), kind="cancelled")
        for job_id in found
    )
    return sum(row is not None for row in changed)


def requeued() -> dict[str, Any]:
    """Return the column values that put a running job back into the queue."""
    return {
        "state": JobState.QUEUED,
        "stage": None,
        "progress": 0.0,
        # The old worker's claim ends at once.
        "fence": jobs.c.fence + 1,
        "worker": None,
        "lease_until": None,
    }


def ended(state: JobState) -> dict[str, Any]:
    """Return the column values of a running job that ends in a state."""
    return {"state": state, "lease_until": None, "finished_at": database_now()}


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == claim.job_id,
        jobs.c.state == JobState.RUNNING,
        jobs.c.fence == claim.fence,
    )
