"""What the API writes and reads of the job record: uploads, jobs, events, artifacts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Engine,
    Row,
    bindparam,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.exc import IntegrityError

from momentum_core.failpoints import reach
from worker.contract.database import RecordUnavailableError, database_now, reading
from worker.contract.ended_jobs import forget_ended_job
from worker.contract.job import Artifact, Event, Job, JobState, Upload
from worker.contract.job_record import (
    cancelled,
    change_job,
    job_of,
    new_id,
    read_job,
    read_upload,
    record_job,
)
from worker.contract.request import ConvertRequest
from worker.contract.tables import (
    artifacts,
    events,
    idempotency_keys,
    job_tags,
    jobs,
    uploads,
)

OUTLINE_EVENTS, NEWEST_EVENTS = 500, 50
"""Events of an outline: of its whole length, and at its end."""

MAX_EVENTS = 1000
"""Events in one page."""


class JobNotFinishedError(Exception):
    """What was asked for is possible only once the job has ended."""


class KeyReusedError(Exception):
    """The idempotency key stands for another request."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What makes sending a request twice harmless."""

    key: str
    """The user's word for the request."""

    fingerprint: str
    """SHA-256 of the request and its files, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Position:
    """A job's place in the list."""

    created_at: float
    job_id: str


# Made once: putting a query together costs more than running it.
_LOOK = select(jobs.c.revision, jobs.c.state).where(
    jobs.c.id == bindparam("id"), jobs.c.tenant == bindparam("tenant")
)


class JobStore:
    """Jobs as users see them; every reading method takes the tenant that asks."""

    def __init__(self, engine: Engine, *, keep_seconds: float | None = None) -> None:
        """Use the record; jobs are kept for `keep_seconds` after their end (None: for ever)."""
        self.engine = engine
        self._keep_seconds = keep_seconds
        self._reader = reading(engine)

    def submit(
        self,
        request: ConvertRequest,
        *,
        tenant: str,
        checkpoint: Upload | None = None,
        data: Upload | None = None,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Record a job, its uploads and its message in one transaction; it is durable afterwards.

        Args:
            request: what is asked for.
            tenant: who asks.
            checkpoint: the weights that were sent; None for a zoo entry.
            data: the data set that was sent.
            key: the user's word for this request: if a job has it already, that is returned.

        Raises:
            KeyReusedError: the key stands for another request.
        """
        try:
            return self._submit(request, tenant, checkpoint, data, key)
        except IntegrityError:
            # Another request with this key was recorded at the same moment.
            if key is None or (earlier := self.submitted(key, tenant=tenant)) is None:
                raise
            return earlier

    def submitted(self, key: IdempotencyKey, *, tenant: str) -> Job | None:
        """Return the job that was recorded with a key, if there is one.

        Raises:
            KeyReusedError: the key stands for another request.
        """
        mine = (idempotency_keys.c.tenant == tenant) & (idempotency_keys.c.key == key.key)
        with self._reader.connect() as connection:
            row = connection.execute(select(idempotency_keys).where(mine)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != key.fingerprint:
            raise KeyReusedError
        return self.get(row.job_id, tenant=tenant)

    def _submit(
        self,
        request: ConvertRequest,
        tenant: str,
        checkpoint: Upload | None,
        data: Upload | None,
        key: IdempotencyKey | None,
    ) -> Job:
        job_id = new_id()
        with self.engine.begin() as connection:
            now = connection.scalar(select(database_now()))
            for upload in (checkpoint, data):
                if upload is not None:
                    connection.execute(insert(uploads), _upload_row(upload, now))
            row = {
                "id": job_id,
                "tenant": tenant,
                "request": request.to_json(),
                "checkpoint_id": checkpoint and checkpoint.id,
                "data_id": data and data.id,
            }
            record_job(connection, row, request, now)
            if key is not None:
                connection.execute(
                    insert(idempotency_keys),
                    {
                        "tenant": tenant,
                        "key": key.key,
                        "fingerprint": key.fingerprint,
                        "job_id": job_id,
                        "created_at": now,
                    },
                )
        reach("submit.committed")
        return self.get(job_id, tenant=tenant)

    def get(self, job_id: str, *, tenant: str) -> Job:
        """Return a job.

        Raises:
            LookupError: the tenant has no such job.
        """
        with self._reader.connect() as connection:
            return read_job(
                connection,
                (jobs.c.id == job_id) & (jobs.c.tenant == tenant),
                keep_seconds=self._keep_seconds,
            )

    def look(self, job_id: str, *, tenant: str) -> tuple[int, JobState]:
        """Return a job's revision and state, at a fraction of what `get` costs.

        Raises:
            LookupError: the tenant has no such job.
        """
        with self._reader.connect() as connection:
            row = connection.execute(_LOOK, {"id": job_id, "tenant": tenant}).one_or_none()
        if row is None:
            raise LookupError(f"no job {job_id}")
        return row.revision, JobState(row.state)

    def look_at(self, job_ids: Collection[str]) -> dict[str, tuple[str, int, JobState]]:
        """Return tenant, revision and state of each of these jobs that there is."""
        query = select(jobs.c.id, jobs.c.tenant, jobs.c.revision, jobs.c.state).where(
            jobs.c.id.in_(job_ids)
        )
        with self._reader.connect() as connection:
            return {
                row.id: (row.tenant, row.revision, JobState(row.state))
                for row in connection.execute(query)
            }

    def find(
        self,
        *,
        tenant: str,
        states: Collection[JobState] = (),
        tags: Collection[str] = (),
        text: str | None = None,
        before: Position | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Return jobs, the newest first.

        Args:
            tenant: whose.
            states: one of these; empty for all.
            tags: every one of these.
            text: part of the name, or how the id begins.
            before: only jobs that come after this one in the list.
            limit: how many at most.
        """
        query = select(jobs).where(jobs.c.tenant == tenant)
        created_at, job_id = jobs.c.created_at, jobs.c.id
        for number, tag in enumerate(tags):
            mine = job_tags.alias()
            query = query.join(mine, mine.c.job_id == jobs.c.id)
            query = query.where(mine.c.tenant == tenant, mine.c.tag == tag)
            if number == 0:
                # In the order of the first tag's index: neither a rare tag nor a common one costs.
                created_at, job_id = mine.c.created_at, mine.c.job_id
        if states:
            query = query.where(jobs.c.state.in_([str(state) for state in states]))
        if text:
            query = query.where(
                jobs.c.name.icontains(text, autoescape=True)
                | jobs.c.id.startswith(text.lower(), autoescape=True)
            )
        if before is not None:
            query = query.where(
                tuple_(created_at, job_id)
                < tuple_(literal(before.created_at), literal(before.job_id))
            )
        query = query.order_by(created_at.desc(), job_id.desc()).limit(limit)
        with self._reader.connect() as connection:
            rows = connection.execute(query)
            return [job_of(row, keep_seconds=self._keep_seconds) for row in rows]

    def cancel(self, job_id: str, *, tenant: str) -> Job:
        """End a job that waits; have one that runs end soon; leave one that has ended.

        Raises:
            LookupError: the tenant has no such job.
        """
        mine = (jobs.c.id == job_id) & (jobs.c.tenant == tenant)
        with self.engine.begin() as connection:
            values = {"cancel_requested": True} | cancelled()
            waiting = mine & (jobs.c.state == JobState.QUEUED)
            if change_job(connection, waiting, values, kind="cancelled") is None:
                running = mine & (jobs.c.state == JobState.RUNNING) & ~jobs.c.cancel_requested
                change_job(connection, running, {"cancel_requested": True}, kind="cancel_requested")
        return self.get(job_id, tenant=tenant)

    def retry(self, job_id: str, *, tenant: str) -> Job:
        """Record a new job with the request and the files of one that has ended.

        Raises:
            LookupError: the tenant has no such job.
            JobNotFinishedError: it has not ended yet.
        """
        new_job_id = new_id()
        with self.engine.begin() as connection:
            now = connection.scalar(select(database_now()))
            old = read_job(connection, (jobs.c.id == job_id) & (jobs.c.tenant == tenant))
            if not old.state.is_final:
                raise JobNotFinishedError
            row = {
                "id": new_job_id,
                "tenant": tenant,
                "request": old.request,
                "checkpoint_id": old.checkpoint_id,
                "data_id": old.data_id,
                "retry_of": old.id,
            }
            record_job(connection, row, ConvertRequest.from_json(old.request), now)
        return self.get(new_job_id, tenant=tenant)

    def delete(self, job_id: str, *, tenant: str) -> None:
        """Forget a job that has ended, with its events; the collector takes its files.

        Raises:
            LookupError: the tenant has no such job.
            JobNotFinishedError: it has not ended yet.
        """
        mine = (jobs.c.id == job_id) & (jobs.c.tenant == tenant)
        with self.engine.begin() as connection:
            read_job(connection, mine)
            if not forget_ended_job(connection, job_id):
                raise JobNotFinishedError

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
            return [_event_of(row) for row in connection.execute(query)]

    def outline_of(self, job: Job) -> list[Event]:
        """Return a job's events in order, those of its progress thinned to a few hundred.

        The newest ones are all there: what a person sees of a job that has run for days costs no
        more than of one that has run for minutes.
        """
        stride = 1 + job.revision // OUTLINE_EVENTS
        query = (
            select(events)
            .where(
                events.c.job_id == job.id,
                or_(
                    events.c.kind != "progress",
                    events.c.number % stride == 0,
                    events.c.number > job.revision - NEWEST_EVENTS,
                ),
            )
            .order_by(events.c.number)
        )
        with self._reader.connect() as connection:
            return [_event_of(row) for row in connection.execute(query)]

    def count_unfinished(self, tenant: str) -> int:
        """Return how many of a tenant's jobs wait or run."""
        unfinished = [str(state) for state in JobState if not state.is_final]
        query = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.state.in_(unfinished))
        with self._reader.connect() as connection:
            return connection.scalar(query) or 0

    def stored_bytes(self, tenant: str) -> int:
        """Return the size of a tenant's uploads and artifacts; what two jobs share counts twice."""
        sent = select(func.sum(uploads.c.num_bytes)).where(uploads.c.tenant == tenant)
        made = (
            select(func.sum(artifacts.c.num_bytes))
            .join(jobs, jobs.c.id == artifacts.c.job_id)
            .where(jobs.c.tenant == tenant)
        )
        with self._reader.connect() as connection:
            return sum(int(connection.scalar(query) or 0) for query in (sent, made))

    def revisions_of(self, job_ids: Collection[str]) -> dict[str, int]:
        """Return the number of the newest event of each job that there is."""
        query = select(jobs.c.id, jobs.c.revision).where(jobs.c.id.in_(job_ids))
        with self._reader.connect() as connection:
            return {row.id: row.revision for row in connection.execute(query)}

    def check(self) -> None:
        """Ask for what recording a job takes; raises what its driver raises if it is not to be had.

        Raises:
            SQLAlchemyError: the database is away, gone, locked or read-only.
        """
        # On SQLite this takes the write lock.
        with self.engine.begin() as connection:
            connection.execute(select(jobs.c.id).limit(1))
            if self.engine.dialect.name == "postgresql":
                shown = connection.exec_driver_sql("SHOW transaction_read_only")
                if shown.scalar_one() == "on":
                    raise RecordUnavailableError("the database is read-only")


def _event_of(row: Row[Any]) -> Event:
    return Event(number=row.number, kind=row.kind, at=row.at, attempt=row.attempt, data=row.data)


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
