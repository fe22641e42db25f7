"""What webhooks and their messages look like."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.times import optional_time, time_of
from worker.contract.address_guard import MAX_URL_CHARACTERS
from worker.contract.webhook_store import Delivery, DeliveryState, Webhook


class ToldKind(StrEnum):
    """What a webhook can be told of."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WebhookRequest(BaseModel):
    """A webhook that is wanted."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        description="Where to send messages by POST; at a public address.",
        examples=["https://example.org/momentum"],
    )
    events: list[ToldKind] = Field(
        default=[ToldKind.SUCCEEDED, ToldKind.FAILED, ToldKind.CANCELLED],
        min_length=1,
        max_length=len(ToldKind),
    )


class WebhookView(BaseModel):
    """A webhook without its secret."""

    id: str
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None = Field(description="When the receiver answered 410.")

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Show a webhook."""
        return cls(**_webhook(webhook))


class NewWebhookView(WebhookView):
    """A webhook that was just made."""

    secret: str = Field(description="Messages are signed with it; it is not shown again.")

    @classmethod
    def with_secret(cls, webhook: Webhook, secret: str) -> Self:
        """Show a webhook with its secret."""
        return cls(**_webhook(webhook), secret=secret)


class WebhookList(BaseModel):
    """Webhooks, the newest first."""

    webhooks: list[WebhookView]


class DeliveryView(BaseModel):
    """A message to a webhook."""

    id: int
    job_id: str
    event: str
    state: DeliveryState
    attempts: int
    status: int | None = Field(description="HTTP status of the last answer.")
    problem: str | None = Field(description="What went wrong at the last attempt.")
    created_at: datetime
    next_at: datetime | None = Field(description="When it is tried again.")
    finished_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Show a message."""
        return cls(
            id=delivery.id,
            job_id=delivery.job_id,
            event=delivery.kind,
            state=delivery.state,
            attempts=delivery.attempts,
            status=delivery.status,
            problem=delivery.problem,
            created_at=time_of(delivery.created_at),
            next_at=optional_time(delivery.next_at),
            finished_at=optional_time(delivery.finished_at),
        )


class DeliveryList(BaseModel):
    """Messages, the newest first."""

    deliveries: list[DeliveryView]


def _webhook(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.kinds),
        "created_at": time_of(webhook.created_at),
        "disabled_at": optional_time(webhook.disabled_at),
    }
