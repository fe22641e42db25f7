"""Which events webhooks are told of; their messages are noted in the event's own transaction."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from worker.contract.database import database_now
from worker.contract.tables import jobs, webhook_deliveries, webhooks

TOLD_KINDS = ("started", "succeeded", "failed", "cancelled")
"""Kinds of events that a webhook can ask for."""


def note_messages(connection: Connection, job_id: str, number: int, kind: str) -> None:
    """Note a message to every webhook of the job's tenant that asks for this kind of event.

    Args:
        connection: in the transaction that records the event.
        job_id: whose event it is.
        number: of the event.
        kind: of the event.
    """
    if kind not in TOLD_KINDS:
        return
    tenant = select(jobs.c.tenant).where(jobs.c.id == job_id).scalar_subquery()
    mine = select(webhooks.c.id, webhooks.c.kinds).where(
        webhooks.c.tenant == tenant, webhooks.c.disabled_at.is_(None)
    )
    # On PostgreSQL, deleting one waits until its message is noted; SQLite has one writer anyway.
    mine = mine.with_for_update(read=True, key_share=True)
    for webhook in connection.execute(mine).all():
        if kind in webhook.kinds:
            connection.execute(
                insert(webhook_deliveries).values(
                    webhook_id=webhook.id,
                    job_id=job_id,
                    event_number=number,
                    kind=kind,
                    state="pending",
                    attempts=0,
                    created_at=database_now(),
                    next_at=database_now(),
                )
            )
