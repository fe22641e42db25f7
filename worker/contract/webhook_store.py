"""Webhooks: which jobs' ends are told to whom, and what became of each message."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, Row, and_, delete, func, insert, select, update

from worker.contract.database import database_now, reading
from worker.contract.job_record import new_id
from worker.contract.tables import events, webhook_deliveries, webhooks

SECRET_PREFIX = "whsec_"  # noqa: S105  (how secrets begin, by the Standard Webhooks rules)
MAX_WEBHOOKS = 20
"""Of a tenant."""

MAX_DELIVERIES = 100
"""In one answer, and in one round of the sender."""

RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
"""Waiting times between attempts; after the last one a message has failed."""

CLAIM_SECONDS = 60.0
"""A sender that fell silent loses a message after this long."""


class DeliveryState(StrEnum):
    """What became of a message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class WebhookDisabledError(Exception):
    """The receiver has said that it is gone."""


class TooManyWebhooksError(Exception):
    """A tenant has as many webhooks as it may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Whom to tell, without the secret; times are seconds since 1970, UTC."""

    id: str
    tenant: str
    url: str
    kinds: tuple[str, ...]
    """Kinds of events that are told."""
    created_at: float
    disabled_at: float | None
    """When the receiver said that it is gone (410)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message to one receiver."""

    id: int
    webhook_id: str
    job_id: str
    event_number: int
    kind: str
    state: DeliveryState
    attempts: int
    status: int | None
    """Of the last answer."""
    problem: str | None
    """What went wrong at the last attempt."""
    created_at: float
    next_at: float | None
    finished_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """A message that is to be sent now."""

    delivery: Delivery
    url: str
    secret: str
    happened_at: float
    tenant: str


class WebhookStore:
    """The webhooks of all tenants, and their messages."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def create(self, *, tenant: str, url: str, kinds: Collection[str]) -> tuple[Webhook, str]:
        """Make a webhook; its secret is returned to be shown once.

        Raises:
            TooManyWebhooksError: the tenant has `MAX_WEBHOOKS` already.
        """
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        webhook_id = new_id()
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                # One at a time, or several would count the same; who notes messages goes on.
                connection.exec_driver_sql("LOCK TABLE webhooks IN SHARE ROW EXCLUSIVE MODE")
            count = select(func.count()).where(webhooks.c.tenant == tenant)
            if (connection.scalar(count) or 0) >= MAX_WEBHOOKS:
                raise TooManyWebhooksError
            row = connection.execute(
                insert(webhooks)
                .values(
                    id=webhook_id,
                    tenant=tenant,
                    url=url,
                    kinds=sorted(kinds),
                    secret=secret,
                    created_at=database_now(),
                )
                .returning(webhooks)
            ).one()
        return _webhook(row), secret

    def all(self, *, tenant: str) -> list[Webhook]:
        """Return a tenant's webhooks, the newest first."""
        query = select(webhooks).where(webhooks.c.tenant == tenant)
        with self._reader.connect() as connection:
            rows = connection.execute(query.order_by(webhooks.c.created_at.desc(), webhooks.c.id))
            return [_webhook(row) for row in rows]

    def get(self, webhook_id: str, *, tenant: str) -> Webhook:
        """Return a webhook.

        Raises:
            LookupError: the tenant has none of this id.
        """
        mine = and_(webhooks.c.id == webhook_id, webhooks.c.tenant == tenant)
        with self._reader.connect() as connection:
            row = connection.execute(select(webhooks).where(mine)).one_or_none()
        if row is None:
            raise LookupError("no such webhook")
        return _webhook(row)

    def delete(self, webhook_id: str, *, tenant: str) -> None:
        """Forget a webhook and its messages.

        Raises:
            LookupError: the tenant has none of this id.
        """
        mine = and_(webhooks.c.id == webhook_id, webhooks.c.tenant == tenant)
        with self._engine.begin() as connection:
            if not connection.execute(delete(webhooks).where(mine)).rowcount:
                raise LookupError("no such webhook")

    def deliveries_of(self, webhook_id: str) -> list[Delivery]:
        """Return a webhook's messages, the newest first."""
        query = (
            select(webhook_deliveries)
            .where(webhook_deliveries.c.webhook_id == webhook_id)
            .order_by(webhook_deliveries.c.id.desc())
            .limit(MAX_DELIVERIES)
        )
        with self._reader.connect() as connection:
            return [_delivery(row) for row in connection.execute(query)]

    def send_again(self, delivery_id: int, *, webhook_id: str) -> Delivery:
        """Send a message once more, whatever became of it.

        Raises:
            LookupError: the webhook has no such message.
            WebhookDisabledError: its receiver has said that it is gone.
        """
        mine = and_(
            webhook_deliveries.c.id == delivery_id, webhook_deliveries.c.webhook_id == webhook_id
        )
        values = {
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "next_at": database_now(),
            "finished_at": None,
        }
        changed = update(webhook_deliveries).where(mine).values(**values)
        with self._engine.begin() as connection:
            gone = select(webhooks.c.disabled_at).where(webhooks.c.id == webhook_id)
            # On PostgreSQL, disabling waits for this transaction, and ends the message after it.
            if connection.scalar(gone.with_for_update(read=True)) is not None:
                raise WebhookDisabledError
            row = connection.execute(changed.returning(webhook_deliveries)).one_or_none()
        if row is None:
            raise LookupError("no such message")
        return _delivery(row)

    def take_due(self, *, limit: int = MAX_DELIVERIES) -> list[Due]:
        """Return messages that are to be sent now, the longest due first; nobody else gets them."""
        is_due = and_(
            webhook_deliveries.c.state == DeliveryState.PENDING,
            webhook_deliveries.c.next_at <= database_now(),
        )
        query = (
            select(webhook_deliveries.c.id)
            .where(is_due)
            .order_by(webhook_deliveries.c.next_at)
            .limit(limit)
        )
        with self._reader.connect() as connection:
            found = connection.scalars(query).all()
        taken = []
        for delivery_id in found:
            with self._engine.begin() as connection:
                claimed = connection.execute(
                    update(webhook_deliveries)
                    .where(webhook_deliveries.c.id == delivery_id, is_due)
                    .values(
                        attempts=webhook_deliveries.c.attempts + 1,
                        next_at=database_now() + CLAIM_SECONDS,
                    )
                    .returning(webhook_deliveries)
                ).one_or_none()
                if claimed is None:
                    continue  # another sender was first
                row = connection.execute(
                    select(webhooks.c.url, webhooks.c.secret, webhooks.c.tenant, events.c.at)
                    .join(events, events.c.job_id == claimed.job_id)
                    .where(
                        webhooks.c.id == claimed.webhook_id, events.c.number == claimed.event_number
                    )
                ).one()
            taken.append(
                Due(
                    delivery=_delivery(claimed),
                    url=row.url,
                    secret=row.secret,
                    happened_at=row.at,
                    tenant=row.tenant,
                )
            )
        return taken

    def record(self, delivery: Delivery, *, status: int | None, problem: str | None) -> None:
        """Record what became of an attempt; after a problem it is tried again, if not too often.

        Args:
            delivery: as `take_due` gave it.
            status: of the answer, if there was one.
            problem: what went wrong; None: it was delivered.
        """
        waits = RETRY_SECONDS[delivery.attempts - 1 : delivery.attempts]
        values: dict[str, Any] = {"status": status, "problem": problem}
        if problem is not None and waits:
            values["next_at"] = database_now() + waits[0]
        else:
            state = DeliveryState.DELIVERED if problem is None else DeliveryState.FAILED
            values |= {"state": state, "next_at": None, "finished_at": database_now()}
        mine = and_(
            webhook_deliveries.c.id == delivery.id,
            webhook_deliveries.c.state == DeliveryState.PENDING,
            # As it was taken: if its time has passed, somebody else may have it.
            webhook_deliveries.c.next_at == delivery.next_at,
        )
        with self._engine.begin() as connection:
            connection.execute(update(webhook_deliveries).where(mine).values(**values))

    def disable(self, webhook_id: str) -> None:
        """Send nothing more to a receiver that says it is gone."""
        with self._engine.begin() as connection:
            mine = and_(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))
            connection.execute(update(webhooks).where(mine).values(disabled_at=database_now()))
            waiting = and_(
                webhook_deliveries.c.webhook_id == webhook_id,
                webhook_deliveries.c.state == DeliveryState.PENDING,
            )
            given_up = {
                "state": DeliveryState.FAILED,
                "next_at": None,
                "finished_at": database_now(),
                "problem": "the receiver is gone",
            }
            connection.execute(update(webhook_deliveries).where(waiting).values(**given_up))


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        tenant=row.tenant,
        url=row.url,
        kinds=tuple(row.kinds),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        webhook_id=row.webhook_id,
        job_id=row.job_id,
        event_number=row.event_number,
        kind=row.kind,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        status=row.status,
        problem=row.problem,
        created_at=row.created_at,
        next_at=row.next_at,
        finished_at=row.finished_at,
    )
