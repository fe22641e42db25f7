"""The relay's side of the record: messages that wait to be sent, and jobs that may go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, Select, and_, func, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import JobState
from worker.contract.job_record import announce, change_job, is_announced
from worker.contract.queue_store import (
    WAITING_FOR_QUEUE,
    WAITING_FOR_SPACE,
    WAITING_FOR_WORKER,
    is_paused,
    is_paused_now,
)
from worker.contract.tables import jobs, outbox
from worker.contract.worker_store import kinds_at_work

MAX_MESSAGES = 100
"""Messages taken in one round."""

MAX_REPEATED = 500
"""Messages of a lane that are sent again in one round."""

MAX_SETTLED = 500
"""Jobs of a paused queue that change in one round."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits to be sent."""

    id: int
    job_id: str
    lane: str
    """Of the job."""


class Outbox:
    """Messages; several relays may work on them at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = reading(engine)

    def waiting(self) -> list[Message]:
        """Return messages that were not sent yet, oldest first."""
        query = (
            select(outbox.c.id, outbox.c.job_id, jobs.c.lane)
            .join(jobs, jobs.c.id == outbox.c.job_id)
            .where(outbox.c.sent_at.is_(None))
            .order_by(outbox.c.id)
            .limit(MAX_MESSAGES)
        )
        with self._reader.connect() as connection:
            return [Message(row.id, row.job_id, row.lane) for row in connection.execute(query)]

    def mark_sent(self, message: Message) -> None:
        """Record that a message is with the broker."""
        with self._engine.begin() as connection:
            connection.execute(
                update(outbox).where(outbox.c.id == message.id).values(sent_at=database_now())
            )

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

    def tell_without_worker(self) -> int:
        """Say of queued jobs for a kind of device that no such worker is there.

        Their messages lie at the broker: the first one that starts takes them.

        Returns:
            How many jobs were told, at most `MAX_SETTLED`: the longest waiting ones come first.
        """
        with self._reader.connect() as connection:
            kinds = kinds_at_work(connection)
            if kinds is None:
                return 0
            # Nobody takes a job for any worker where there is none: that is seen by other means.
            untold = and_(
                jobs.c.state == JobState.QUEUED,
                jobs.c.waiting_for.is_(None),
                jobs.c.lane.not_in({"any", *kinds}),
            )
            query = select(jobs.c.id).where(untold).order_by(jobs.c.created_at).limit(MAX_SETTLED)
            found = connection.scalars(query).all()
        if not found:
            return 0
        reason, num_told = {"waiting_for": WAITING_FOR_WORKER}, 0
        with self._engine.begin() as connection:
            for job_id in found:
                where = and_(jobs.c.id == job_id, untold)
                row = change_job(connection, where, reason, kind="waiting", data=reason)
                num_told += row is not None
        return num_told

    def resume_with_space(self, *, has_space: Callable[[], bool]) -> int:
        """Let jobs go on that found the disk full, once it is not.

        Args:
            has_space: asked only if jobs wait for it.

        Returns:
            How many jobs go on, at most `MAX_SETTLED`.
        """
        waits = and_(jobs.c.state == JobState.QUEUED, jobs.c.waiting_for == WAITING_FOR_SPACE)
        query = select(jobs.c.id).where(waits).order_by(jobs.c.created_at).limit(MAX_SETTLED)
        with self._reader.connect() as connection:
            found = connection.scalars(query).all()
        if not found or not has_space():
            return 0
        num_resumed = 0
        with self._engine.begin() as connection:
            for job_id in found:
                where = and_(jobs.c.id == job_id, waits)
                if change_job(connection, where, {"waiting_for": None}, kind="resumed"):
                    announce(connection, job_id)
                    num_resumed += 1
        return num_resumed

    def announce_again(
        self, *, num_at_broker: Callable[[str], int], older_than_seconds: float
    ) -> int:
        """Put queued jobs whose message the broker lost into the outbox once more.

        Which ones are lost cannot be seen, only that the broker holds fewer messages than jobs
        wait. A message too many wakes a worker for nothing, and changes nothing.

        Args:
            num_at_broker: counts a lane's messages that the broker holds; asked only if jobs wait.
            older_than_seconds: younger messages are left alone: they may be on their way.

        Returns:
            How many messages were added.
        """
        last_sent = select(func.max(outbox.c.sent_at)).where(outbox.c.job_id == jobs.c.id)
        unsent = select(outbox.c.id).where(outbox.c.job_id == jobs.c.id, outbox.c.sent_at.is_(None))
        waits = and_(jobs.c.state == JobState.QUEUED, is_announced())
        queued = and_(waits, ~unsent.exists())
        by_lane = select(jobs.c.lane, func.count()).where(queued).group_by(jobs.c.lane)
        with self._reader.connect() as connection:
            num_waiting = connection.execute(by_lane).all()
        missing = {lane: found - num_at_broker(lane) for lane, found in num_waiting}
        if not any(found > 0 for found in missing.values()):
            return 0
        # The collector forgets messages that were sent long ago.
        last = func.coalesce(last_sent.scalar_subquery(), 0.0)
        stale = and_(queued, last < database_now() - older_than_seconds)
        num_added = 0
        with self._engine.begin() as connection:
            for lane, found in missing.items():
                if found <= 0:
                    continue
                # A message is good for any job of its lane: so many are enough.
                query = select(jobs.c.id).where(stale, jobs.c.lane == lane)
                query = query.order_by(jobs.c.created_at).limit(min(found, MAX_REPEATED))
                for job_id in connection.scalars(query).all():
                    announce(connection, job_id)
                    num_added += 1
        return num_added


def _unsettled(paused: bool) -> Select[str]:
    """Select queued jobs that do not say yet whether they wait for their queue."""
    told = None if paused else WAITING_FOR_QUEUE
    wanted = and_(jobs.c.state == JobState.QUEUED, jobs.c.waiting_for == told)
    return select(jobs.c.id).where(wanted).order_by(jobs.c.created_at)
