"""Operations on all that is not a job: zoo, keys, webhooks, limits, version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.client.effects import Answer, ConnectionLostError, Op, Request, Send
from api.client.errors import error_of
from api.client.records import (
    Delivery,
    Key,
    Readiness,
    ServiceLimits,
    ServiceVersion,
    Webhook,
    Zoo,
    read,
    read_list,
)
from api.client.retrying import RetryPolicy, exchange


def get_zoo(policy: RetryPolicy) -> Op[Zoo]:
    """Return what can be converted by name.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read(Zoo, (yield from _get(policy, "/zoo")))


def get_limits(policy: RetryPolicy) -> Op[ServiceLimits]:
    """Return what may be asked for, and what is used of it.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read(ServiceLimits, (yield from _get(policy, "/limits")))


def get_version(policy: RetryPolicy) -> Op[ServiceVersion]:
    """Return what runs there.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read(ServiceVersion, (yield from _get(policy, "/version")))


def get_readiness(policy: RetryPolicy) -> Op[Readiness]:
    """Return whether the service can work, also when it cannot.

    Raises:
        ApiError: it does not answer, or something else does.
    """
    request = Request(method="GET", path="/readyz")
    try:
        answer: Answer = yield Send(request)
    except ConnectionLostError:
        answer = yield from exchange(request, policy)
    if answer.status not in (200, 503):
        raise error_of(answer.status, answer.headers, answer.body)
    return read(Readiness, answer.json())


def list_keys(policy: RetryPolicy) -> Op[list[Key]]:
    """Return all API keys without their secrets, the newest first; takes the scope `admin`.

    Raises:
        ApiError: `insufficient_scope`, and whatever any request may meet.
    """
    return read_list(Key, (yield from _get(policy, "/keys")), "keys")


def create_key(
    policy: RetryPolicy,
    name: str,
    *,
    tenant: str = "default",
    scopes: Iterable[str] = ("read", "write"),
    expires_in_days: float | None = None,
) -> Op[Key]:
    """Make an API key; its `secret` is in this answer and nowhere else. Takes the scope `admin`.

    Args:
        name: what it is for.
        tenant: whose jobs it sees.
        scopes: of `read`, `write` and `admin`.
        expires_in_days: None for never.

    Raises:
        ApiError: `insufficient_scope`, and whatever any request may meet.
    """
    wanted: dict[str, Any] = {"name": name, "tenant": tenant, "scopes": list(scopes)}
    if expires_in_days is not None:
        wanted["expires_in_days"] = expires_in_days
    return read(Key, (yield from _post(policy, "/keys", wanted)))


def revoke_key(policy: RetryPolicy, key_id: str) -> Op[None]:
    """End an API key at once, and for good; takes the scope `admin`.

    Raises:
        ApiError: `key_not_found`, `insufficient_scope`, and whatever any request may meet.
    """
    yield from exchange(Request(method="DELETE", path=f"/keys/{key_id}"), policy)


def list_webhooks(policy: RetryPolicy) -> Op[list[Webhook]]:
    """Return the tenant's webhooks without their secrets, the newest first.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read_list(Webhook, (yield from _get(policy, "/webhooks")), "webhooks")


def create_webhook(policy: RetryPolicy, url: str, *, events: Iterable[str] = ()) -> Op[Webhook]:
    """Have a URL told of jobs; the `secret` that messages are signed with is in this answer only.

    Args:
        url: where to send messages by POST.
        events: of `started succeeded failed cancelled`; all but the first one if there are none.

    Raises:
        ApiError: `refused_address`, `too_many_webhooks`, and whatever any request may meet.
    """
    kinds = list(events)
    wanted = {"url": url} | ({"events": kinds} if kinds else {})
    return read(Webhook, (yield from _post(policy, "/webhooks", wanted)))


def delete_webhook(policy: RetryPolicy, webhook_id: str) -> Op[None]:
    """Tell a URL nothing more.

    Raises:
        ApiError: `webhook_not_found`, and whatever any request may meet.
    """
    yield from exchange(Request(method="DELETE", path=f"/webhooks/{webhook_id}"), policy)


def list_deliveries(policy: RetryPolicy, webhook_id: str) -> Op[list[Delivery]]:
    """Return a webhook's newest messages, at most 100, and what the receiver said.

    Raises:
        ApiError: `webhook_not_found`, and whatever any request may meet.
    """
    found = yield from _get(policy, f"/webhooks/{webhook_id}/deliveries")
    return read_list(Delivery, found, "deliveries")


def redeliver(policy: RetryPolicy, webhook_id: str, delivery_id: int) -> Op[Delivery]:
    """Send a webhook's message once more; it has the same id for the receiver.

    Raises:
        ApiError: `delivery_not_found`, `webhook_not_found`, and whatever any request may meet.
    """
    path = f"/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"
    return read(Delivery, (yield from _post(policy, path, None)))


def _get(policy: RetryPolicy, path: str) -> Op[Any]:
    return (yield from exchange(Request(method="GET", path=path), policy)).json()


def _post(policy: RetryPolicy, path: str, value: Any) -> Op[Any]:
    request = Request(method="POST", path=path, json=value, is_repeatable=False)
    return (yield from exchange(request, policy)).json()
