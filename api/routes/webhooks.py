"""Webhooks: the service tells a URL when jobs start and end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool

from api.audit_trail import note_target
from api.dependencies import ID, ServiceDependency, TenantDependency
from api.openapi import problems
from api.problems import Problem
from api.schemas.webhooks import (
    DeliveryList,
    DeliveryView,
    NewWebhookView,
    WebhookList,
    WebhookRequest,
    WebhookView,
)
from worker.contract.address_guard import RefusedAddressError, check_url
from worker.contract.webhook_store import (
    MAX_WEBHOOKS,
    TooManyWebhooksError,
    Webhook,
    WebhookDisabledError,
)

RESOLVE_SECONDS = 5.0
_resolvers = CapacityLimiter(4)
"""Threads that wait for name servers: a slow one must not take those of the routes."""

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.post(
    "",
    operation_id="create_webhook",
    summary="Have a URL told",
    status_code=201,
    responses=problems("refused_address", "too_many_webhooks"),
)
async def create_webhook(
    wanted: WebhookRequest,
    service: ServiceDependency,
    tenant: TenantDependency,
    request: Request,
) -> NewWebhookView:
    """Make a webhook; its signing secret is in this answer and nowhere else.

    Messages are signed and sent again by the Standard Webhooks rules.
    """
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            networks = service.settings.networks
            await to_thread.run_sync(
                check_url, wanted.url, networks, limiter=_resolvers, abandon_on_cancel=True
            )
        kinds = {str(kind) for kind in wanted.events}
        create = partial(service.webhooks.create, tenant=tenant, url=wanted.url, kinds=kinds)
        webhook, secret = await run_in_threadpool(create)
    except TimeoutError:
        raise Problem(
            422, "refused_address", "the url is refused: its host's address is not found in time"
        ) from None
    except RefusedAddressError as error:
        raise Problem(422, "refused_address", f"the url is refused: {error}") from None
    except TooManyWebhooksError:
        raise Problem(
            429,
            "too_many_webhooks",
            f"there are {MAX_WEBHOOKS} webhooks already; delete one that is not needed any more",
        ) from None
    note_target(request, f"/webhooks/{webhook.id}")
    return NewWebhookView.with_secret(webhook, secret)


@router.get("", operation_id="list_webhooks", summary="Look at all webhooks")
def list_webhooks(service: ServiceDependency, tenant: TenantDependency) -> WebhookList:
    """Return the tenant's webhooks without their secrets, the newest first."""
    return WebhookList(
        webhooks=[WebhookView.of(one) for one in service.webhooks.all(tenant=tenant)]
    )


def _webhook(webhook_id: str, service: ServiceDependency, tenant: TenantDependency) -> Webhook:
    try:
        if not ID.fullmatch(webhook_id):
            raise LookupError
        return service.webhooks.get(webhook_id, tenant=tenant)
    except LookupError:
        raise _not_found() from None


WebhookDependency = Annotated[Webhook, Depends(_webhook)]


@router.get("/{webhook_id}", operation_id="get_webhook", summary="Look at a webhook")
def get_webhook(webhook: WebhookDependency) -> WebhookView:
    """Return a webhook without its secret."""
    return WebhookView.of(webhook)


@router.delete(
    "/{webhook_id}",
    operation_id="delete_webhook",
    summary="Tell a URL nothing more",
    status_code=204,
)
def delete_webhook(
    webhook: WebhookDependency, service: ServiceDependency, tenant: TenantDependency
) -> None:
    """Forget a webhook and its messages."""
    try:
        service.webhooks.delete(webhook.id, tenant=tenant)
    except LookupError:
        raise _not_found() from None


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="list_deliveries",
    summary="What became of its messages",
)
def list_deliveries(webhook: WebhookDependency, service: ServiceDependency) -> DeliveryList:
    """Return the newest messages, at most 100, and what the receiver said."""
    found = service.webhooks.deliveries_of(webhook.id)
    return DeliveryList(deliveries=[DeliveryView.of(one) for one in found])


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    operation_id="redeliver",
    summary="Send a message again",
    status_code=202,
    responses=problems("delivery_not_found", "webhook_disabled"),
)
def redeliver(
    webhook: WebhookDependency, delivery_id: str, service: ServiceDependency
) -> DeliveryView:
    """Send a message once more, whatever became of it; it has the same id for the receiver."""
    try:
        if not delivery_id.isascii() or not delivery_id.isdecimal() or len(delivery_id) > 15:
            raise LookupError
        return DeliveryView.of(service.webhooks.send_again(int(delivery_id), webhook_id=webhook.id))
    except LookupError:
        raise Problem(
            404,
            "delivery_not_found",
            "the webhook has no such message; GET /webhooks/{id}/deliveries lists them",
        ) from None
    except WebhookDisabledError:
        raise Problem(
            409,
            "webhook_disabled",
            "the receiver has answered 410, so it is sent nothing more; make a new webhook",
        ) from None


def _not_found() -> Problem:
    return Problem(
        404, "webhook_not_found", "there is no such webhook; GET /webhooks lists all of them"
    )
