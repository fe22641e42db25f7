"""The relay's side of the record: messages that wait to be sent, and jobs whose worker is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from sqlalchemy import Engine, Select, and_, func, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import JobError, JobState
from worker.contract.job_claims import change_all_cancelled, requeued
from worker.contract.job_record import announce, change_job
from worker.contract.queue_store import WAITING_FOR_QUEUE, is_paused, is_paused_now
from worker.contract.tables import jobs, outbox

MAX_MESSAGES = 100
"""Messages taken in one round."""

MAX_SETTLED = 500
"""Jobs of a paused queue that change in one round."""

ATTEMPTS_EXHAUSTED = "attempts_exhausted"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits to be sent."""

    id: int
    job_id: str


class Outbox:
    """Messages and expired leases; several relays may work on them at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = reading(engine)

    def waiting(self) -> list[Message]:
        """Return messages that were not sent yet, oldest first."""
        query = (
            select(outbox.c.id, outbox.c.job_id)
            .where(outbox.c.sent_at.is_(None))
            .order_by(outbox.c.id)
            .limit(MAX_MESSAGES)
        )
        with self._reader.connect() as connection:
            return [Message(row.id, row.job_id) for row in connection.execute(query)]

    def mark_sent(self, message: Message) -> None:
        """Record that a message is with the broker."""
        with self._engine.begin() as connection:
            connection.execute(
                update(outbox).where(outbox.c.id == message.id).values(sent_at=database_now())
            )

    def requeue_expired(self, *, max_attempts: int) -> int:
        """Queue jobs again whose worker fell silent, or end them after too many attempts.

        Returns:
            How many jobs changed.
        """
        expired = and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < database_now())
        # A look before the lock: in almost every round there is nothing to do.
        with self._reader.connect() as connection:
            found = connection.execute(select(jobs.c.id, jobs.c.attempt).where(expired)).all()
        if found:
            with self._engine.begin() as connection:
                change_all_cancelled(connection, expired)
        for row in found:
            with self._engine.begin() as connection:
                where = and_(jobs.c.id == row.id, jobs.c.attempt == row.attempt, expired)
                if row.attempt >= max_attempts:
                    error = _exhausted(row.attempt)
                    values = requeued() | {
                        "state": JobState.FAILED,
                        "stage": jobs.c.stage,
                        "error_code": error.code,
                        "error_message": error.message,
                        "finished_at": database_now(),
                    }
                    change_job(connection, where, values, kind="failed", data=asdict(error))
                elif change_job(
                    connection, where, requeued(), kind="requeued", data={"reason": "worker_lost"}
                ):
                    announce(connection, row.id)
        return len(found)

    def settle_paused(self) -> int:
        """Say of queued jobs that their queue is paused; once it goes on, announce them again.

        Returns:
            How many jobs changed, at most `MAX_SETTLED`: the longest waiting ones come first.
        """
        with self._reader.connect() as connection:
            if not connection.scalar(_unsettled(is_paused_now(connection)).limit(1)):
                return 0  # no lock for nothing
        with self._engine.begin() as connection:
            paused = is_paused(connection)
            found = connection.scalars(_unsettled(paused).limit(MAX_SETTLED)).all()
            for job_id in found:
                where = and_(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                if paused:
                    reason = {"waiting_for": WAITING_FOR_QUEUE}
                    change_job(connection, where, reason, kind="waiting", data=reason)
                elif change_job(connection, where, {"waiting_for": None}, kind="resumed"):
                    announce(connection, job_id)
        return len(found)

    def announce_again(self, *, num_at_broker: Callable[[], int], older_than_seconds: float) -> int:
        """Put queued jobs whose message the broker lost into the outbox once more.

        Which ones are lost cannot be seen, only that the broker holds fewer messages than jobs
        wait. A message too many wakes a worker for nothing, and changes nothing.

        Args:
            num_at_broker: counts the messages that the broker holds; asked only if jobs wait.
            older_than_seconds: younger messages are left alone: they may be on their way.

        Returns:
            How many messages were added.
        """
        last_sent = select(func.max(outbox.c.sent_at)).where(outbox.c.job_id == jobs.c.id)
        unsent = select(outbox.c.id).where(outbox.c.job_id == jobs.c.id, outbox.c.sent_at.is_(None))
        # What waits for its queue is announced when that goes on.
        waits = and_(jobs.c.state == JobState.QUEUED, jobs.c.waiting_for.is_(None))
        queued = and_(waits, ~unsent.exists())
        with self._reader.connect() as connection:
            num_waiting = connection.scalar(select(func.count()).where(queued)) or 0
        if num_waiting == 0 or num_waiting <= num_at_broker():
            return 0
        # The collector forgets messages that were sent long ago.
        last = func.coalesce(last_sent.scalar_subquery(), 0.0)
        stale = and_(queued, last < database_now() - older_than_seconds)
        with self._engine.begin() as connection:
            lost = connection.scalars(select(jobs.c.id).where(stale)).all()
            for job_id in lost:
                announce(connection, job_id)
        return len(lost)


def _unsettled(paused: bool) -> Select[str]:
    """Select queued jobs that do not say yet whether they wait for their queue."""
    told = None if paused else WAITING_FOR_QUEUE
    wanted = and_(jobs.c.state == JobState.QUEUED, jobs.c.waiting_for == told)
    return select(jobs.c.id).where(wanted).order_by(jobs.c.created_at)


def _exhausted(attempts: int) -> JobError:
    return JobError(
        code=ATTEMPTS_EXHAUSTED,
        message=f"the worker died in each of {attempts} attempts; look into the worker's log for "
        "the reason (often too little memory: try a smaller measurement.batch_size)",
    )
