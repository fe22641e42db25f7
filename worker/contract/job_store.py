"""What the API writes and reads of the job record: uploads, jobs, events, artifacts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, insert, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import Artifact, Event, Job, JobError, JobState, Stage, Upload
from worker.contract.request import ConvertRequest
from worker.contract.tables import artifacts, events, jobs, outbox, uploads

MAX_EVENTS = 1000
"""Events in one page."""


def new_id() -> str:
    """Return an identifier that nobody can guess."""
    return uuid.uuid4().hex


class JobStore:
    """Jobs as users see them; every reading method takes the tenant that asks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = reading(engine)

    def submit(
        self,
        request: ConvertRequest,
        *,
        tenant: str,
        checkpoint: Upload | None = None,
        data: Upload | None = None,
    ) -> Job:
        """Record a job, its uploads and its message in one transaction; it is durable afterwards.

        Args:
            request: what is asked for.
            tenant: who asks.
            checkpoint: the weights that were sent; None for a zoo entry.
            data: the data set that was sent.
        """
        job_id = new_id()
        with self.engine.begin() as connection:
            now = connection.scalar(select(database_now()))
            for upload in (checkpoint, data):
                if upload is not None:
                    connection.execute(insert(uploads), _upload_row(upload, now))
            connection.execute(
                insert(jobs),
                {
                    "id": job_id,
                    "tenant": tenant,
                    "name": request.name,
                    "state": JobState.QUEUED,
                    "progress": 0.0,
                    "attempt": 0,
                    "fence": 0,
                    "cancel_requested": False,
                    "request": request.to_json(),
                    "checkpoint_id": checkpoint and checkpoint.id,
                    "data_id": data and data.id,
                    "revision": 0,
                    "created_at": now,
                },
            )
            change_job(connection, jobs.c.id == job_id, {}, kind="queued")
            announce(connection, job_id)
        return self.get(job_id, tenant=tenant)

    def get(self, job_id: str, *, tenant: str) -> Job:
        """Return a job.

        Raises:
            LookupError: the tenant has no such job.
        """
        with self._reader.connect() as connection:
            return read_job(connection, (jobs.c.id == job_id) & (jobs.c.tenant == tenant))

    def upload(self, upload_id: str) -> Upload:
        """Return an upload.

        Raises:
            LookupError: there is none of that name.
        """
        with self._reader.connect() as connection:
            row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).one_or_none()
        if row is None:
            raise LookupError("no such upload")
        return read_upload(row)

    def uploads_of(self, job: Job) -> dict[str, Upload]:
        """Return the files that were sent with a job, by the name of their part."""
        named = {"checkpoint": job.checkpoint_id, "data": job.data_id}
        return {part: self.upload(each) for part, each in named.items() if each is not None}

    def artifacts_of(self, job_id: str) -> list[Artifact]:
        """Return a job's files, by name."""
        query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.name)
        with self._reader.connect() as connection:
            return [
                Artifact(
                    name=row.name,
                    sha256=row.blob_sha256,
                    num_bytes=row.num_bytes,
                    media_type=row.media_type,
                )
                for row in connection.execute(query)
            ]

    def events_of(self, job_id: str, *, after: int = 0) -> list[Event]:
        """Return a job's events with a number above `after`, at most `MAX_EVENTS`, in order."""
        query = (
            select(events)
            .where(events.c.job_id == job_id, events.c.number > after)
            .order_by(events.c.number)
            .limit(MAX_EVENTS)
        )
        with self._reader.connect() as connection:
            return [
                Event(
                    number=row.number, kind=row.kind, at=row.at, attempt=row.attempt, data=row.data
                )
                for row in connection.execute(query)
            ]

    def check(self) -> None:
        """Ask the database something; raises what its driver raises if it does not answer."""
        with self._reader.connect() as connection:
            connection.execute(select(jobs.c.id).limit(1))


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
        The job's `id`, `revision`, `attempt` and `fence`, or None if no job met the condition.
    """
    row = connection.execute(
        update(jobs)
        .where(where)
        .values(revision=jobs.c.revision + 1, **values)
        .returning(jobs.c.id, jobs.c.revision, jobs.c.attempt, jobs.c.fence)
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
    return row


def announce(connection: Connection, job_id: str) -> None:
    """Put a message to the workers into the outbox, in the caller's transaction."""
    connection.execute(insert(outbox).values(job_id=job_id, created_at=database_now()))


def read_job(connection: Connection, where: ColumnElement[bool]) -> Job:
    """Return the one job that meets a condition.

    Raises:
        LookupError: there is none.
    """
    row = connection.execute(select(jobs).where(where)).one_or_none()
    if row is None:
        raise LookupError("no such job")
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
    )


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


def _upload_row(upload: Upload, now: float | None) -> dict[str, Any]:
    return {
        "id": upload.id,
        "tenant": upload.tenant,
        "kind": upload.kind,
        "blob_sha256": upload.blob_sha256,
        "num_bytes": upload.num_bytes,
        "facts": upload.facts,
        "created_at": now,
    }
