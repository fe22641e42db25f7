"""Removes what nobody asks for any more: jobs whose time is over, files without a job, old rows."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Engine, delete, select

from worker.contract.database import database_now, reading
from worker.contract.ended_jobs import forget_ended_job
from worker.contract.file_store import FileStore
from worker.contract.job import JobState
from worker.contract.tables import (
    artifacts,
    audit,
    idempotency_keys,
    jobs,
    outbox,
    uploads,
    webhook_deliveries,
    workers,
)
from worker.contract.worker_store import FORGET_SECONDS

YOUNG_SECONDS = 3600.0
"""A file is put into the store before the record points to it; within this time it does."""

KEY_SECONDS = 7 * 86400.0
"""How long an idempotency key is remembered."""

SENT_SECONDS = 3600.0
"""How long a sent message is kept: the relay asks when a job's last one was sent."""

DELIVERY_SECONDS = 30 * 86400.0
"""How long it is kept what became of a webhook's message."""

MAX_EXPIRED = 1000
"""Jobs that are forgotten in one round."""


class Collector:
    """Looks for what is left over; several may do so at once."""

    def __init__(
        self,
        engine: Engine,
        files: FileStore,
        *,
        keep_seconds: float | None = None,
        audit_seconds: float | None = None,
    ) -> None:
        """Use the record and the file store.

        Args:
            engine: the record.
            files: the file store.
            keep_seconds: time that jobs are kept after their end; None: for ever.
            audit_seconds: time that it is kept who did what; None: for ever.
        """
        self._keep_seconds = keep_seconds
        self._audit_seconds = audit_seconds
        self._engine = engine
        self._reader = reading(engine)
        self._files = files

    def collect(self, *, young_seconds: float = YOUNG_SECONDS) -> int:
        """Remove what is left over; return how many files and unfinished jobs' folders."""
        self._files.check()
        self._forget(outbox.c.sent_at, SENT_SECONDS)
        self._forget(idempotency_keys.c.created_at, KEY_SECONDS)
        self._forget(webhook_deliveries.c.finished_at, DELIVERY_SECONDS)
        self._forget(workers.c.seen_at, FORGET_SECONDS)
        if self._audit_seconds is not None:
            self._forget(audit.c.at, self._audit_seconds)
        ended = [job_id for job_id in self._files.unfinished_jobs() if not self._goes_on(job_id)]
        for job_id in ended:
            self._files.drop_unfinished(job_id)
        for upload_id in self._files.old_uploads(older_than_seconds=young_seconds):
            # Its row comes before the file: who has none was dropped while it was written.
            if not self._has_row(upload_id):
                self._files.drop_received(upload_id)
        self._files.clear_temporary(older_than_seconds=YOUNG_SECONDS)
        return self._files.collect(self._is_needed, older_than_seconds=young_seconds) + len(ended)

    def drop_expired(self) -> int:
        """Forget jobs that ended long ago, the oldest first; return how many.

        Their files go with the next `collect`: if that comes before, a download that has just
        found its file's name still finds the file.
        """
        if self._keep_seconds is None:
            return 0
        query = (
            select(jobs.c.id)
            .where(jobs.c.finished_at < database_now() - self._keep_seconds)
            .order_by(jobs.c.finished_at)
            .limit(MAX_EXPIRED)
        )
        with self._reader.connect() as connection:
            found = connection.scalars(query).all()
        num_forgotten = 0
        for job_id in found:
            # One at a time: nobody waits long for the lock, and a crash leaves whole jobs.
            with self._engine.begin() as connection:
                num_forgotten += forget_ended_job(connection, job_id)
        return num_forgotten

    def clear_states(self) -> None:
        """Remove from this machine what jobs went on from that have ended, here or elsewhere."""
        for job_id in self._files.unfinished_jobs_here():
            if not self._goes_on(job_id):
                self._files.drop_unfinished_here(job_id)

    def _goes_on(self, job_id: str) -> bool:
        with self._reader.connect() as connection:
            state = connection.scalar(select(jobs.c.state).where(jobs.c.id == job_id))
        return state is not None and not JobState(state).is_final

    def _has_row(self, upload_id: str) -> bool:
        with self._reader.connect() as connection:
            found = connection.execute(select(uploads.c.id).where(uploads.c.id == upload_id))
            return found.one_or_none() is not None

    def _is_needed(self, sha256: str) -> bool:
        with self._reader.connect() as connection:
            return any(
                connection.execute(select(column).where(column == sha256).limit(1)).one_or_none()
                for column in (artifacts.c.blob_sha256, uploads.c.blob_sha256)
            )

    def _forget(self, column: ColumnElement[float | None], seconds: float) -> None:
        old = column < database_now() - seconds
        with self._reader.connect() as connection:
            if connection.execute(select(column).where(old).limit(1)).one_or_none() is None:
                return  # no lock for nothing
        with self._engine.begin() as connection:
            connection.execute(delete(column.table).where(old))
