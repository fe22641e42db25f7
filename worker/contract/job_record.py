"""One job in the record: how it is read, made and changed, always in a caller's transaction.

Store, claims and outbox are made of these.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, or_, select, update

from worker.contract.database import database_now
from worker.contract.job import Job, JobError, JobState, Stage, Upload
from worker.contract.origin import origin
from worker.contract.queue_store import WAITING_FOR_WORKER
from worker.contract.request import PRIORITIES, ConvertRequest
from worker.contract.tables import events, job_tags, jobs, outbox, uploads
from worker.contract.webhook_messages import note_messages


def new_id() -> str:
    """Return an identifier that nobody can guess."""
    return uuid.uuid4().hex


def change_job(
    connection: Connection,
    where: ColumnElement[bool],
    values: Mapping[str, Any],
    *,
    kind: str,
    data: Mapping[str, Any] | None = None,
) -> Row[Any] | None:
    """Change at most one job and record the event, in the caller's transaction.

    Every change of a job goes through here: so its revision is the number of its newest event.

    Args:
        connection: in a transaction.
        where: which job, and under which condition.
        values: new values of its columns.
        kind: kind of the event.
        data: details of the event.

    Returns:
        The job's `id`, `revision`, `attempt`, `fence` and `origin`; None if no job met the
        condition.
    """
    row = connection.execute(
        update(jobs)
        .where(where)
        .values(revision=jobs.c.revision + 1, **values)
        .returning(
            *(jobs.c.id, jobs.c.tenant, jobs.c.revision),
            *(jobs.c.attempt, jobs.c.fence, jobs.c.origin),
        )
    ).one_or_none()
    if row is not None:
        connection.execute(
            insert(events).values(
                job_id=row.id,
                number=row.revision,
                kind=kind,
                at=database_now(),
                attempt=row.attempt,
                data=dict(data or {}),
            )
        )
        note_messages(connection, row.id, row.revision, kind)
    return row


def cancelled() -> dict[str, Any]:
    """Return the column values of a job that is cancelled; a worker's claim ends at once."""
    return {
        "state": JobState.CANCELLED,
        "fence": jobs.c.fence + 1,
        "lease_until": None,
        "waiting_for": None,
        "finished_at": database_now(),
    }


def is_announced() -> ColumnElement[bool]:
    """Return the condition that a queued job has a message, or gets one by itself.

    What waits for its queue or for space is announced when that is there; a better worker, for
    which others wait, may come at any time.
    """
    return or_(jobs.c.waiting_for.is_(None), jobs.c.waiting_for == WAITING_FOR_WORKER)


def announce(connection: Connection, job_id: str) -> None:
    """Put a message to the workers into the outbox, in the caller's transaction."""
    connection.execute(insert(outbox).values(job_id=job_id, created_at=database_now()))


def read_job(
    connection: Connection, where: ColumnElement[bool], *, keep_seconds: float | None = None
) -> Job:
    """Return the one job that meets a condition.

    Args:
        connection: to read with.
        where: the condition.
        keep_seconds: time that a job is kept after its end; None: for ever.

    Raises:
        LookupError: there is none.
    """
    row = connection.execute(select(jobs).where(where)).one_or_none()
    if row is None:
        raise LookupError("no such job")
    return job_of(row, keep_seconds=keep_seconds)


def forget_job(connection: Connection, job_id: str) -> bool:
    """Remove a job that has ended with all its rows, in the caller's transaction.

    Its files stay until the collector finds that nothing points to them: a crash leaves no row
    without its file.

    Returns:
        Whether it was there, and had ended.
    """
    ended = jobs.c.state.in_([str(state) for state in JobState if state.is_final])
    row = connection.execute(
        delete(jobs)
        .where(jobs.c.id == job_id, ended)
        .returning(jobs.c.checkpoint_id, jobs.c.data_id)
    ).one_or_none()
    if row is None:
        return False
    for upload_id in (row.checkpoint_id, row.data_id):
        # A retry has the same files.
        used = select(jobs.c.id).where(
            (jobs.c.checkpoint_id == upload_id) | (jobs.c.data_id == upload_id)
        )
        connection.execute(delete(uploads).where(uploads.c.id == upload_id, ~used.exists()))
    return True


def read_upload(row: Row[Any]) -> Upload:
    """Return the upload of a row."""
    return Upload(
        id=row.id,
        tenant=row.tenant,
        kind=row.kind,
        blob_sha256=row.blob_sha256,
        num_bytes=row.num_bytes,
        facts=row.facts,
    )


def job_of(row: Row[Any], *, keep_seconds: float | None = None) -> Job:
    """Return the job of a row; see `read_job`."""
    is_kept = row.finished_at is None or keep_seconds is None
    return Job(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        state=JobState(row.state),
        stage=row.stage and Stage(row.stage),
        progress=row.progress,
        attempt=row.attempt,
        fence=row.fence,
        worker=row.worker,
        lease_until=row.lease_until,
        request=row.request,
        checkpoint_id=row.checkpoint_id,
        data_id=row.data_id,
        result=row.result,
        error=JobError(code=row.error_code, message=row.error_message) if row.error_code else None,
        revision=row.revision,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=None if is_kept else row.finished_at + keep_seconds,
        cancel_requested=row.cancel_requested,
        waiting_for=row.waiting_for,
        retry_of=row.retry_of,
    )


def record_job(
    connection: Connection, row: Mapping[str, Any], request: ConvertRequest, now: float | None
) -> None:
    """Record a job, its first event and its message, in the caller's transaction.

    Args:
        connection: in a transaction.
        row: the job's `id`, `tenant`, and what else differs from the defaults.
        request: what is asked for.
        now: by the database's clock.
    """
    defaults = {
        "name": request.name,
        "state": JobState.QUEUED,
        "progress": 0.0,
        "attempt": 0,
        "fence": 0,
        "cancel_requested": False,
        "revision": 0,
        "request_version": request.version,
        "lane": request.worker.device or "any",
        "memory_bytes": request.worker.memory_bytes,
        "dataset": request.dataset_name,
        "priority_rank": PRIORITIES.index(request.priority),
        "created_at": now,
        "origin": origin(),
    }
    connection.execute(insert(jobs), defaults | dict(row))
    for tag in request.tags:
        connection.execute(
            insert(job_tags),
            {"job_id": row["id"], "tag": tag, "tenant": row["tenant"], "created_at": now},
        )
    change_job(connection, jobs.c.id == row["id"], {}, kind="queued")
    announce(connection, row["id"])
