"""Operations on all that is not a job: zoo, keys, webhooks, limits, version."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from api.client.effects import Answer, ConnectionLostError, Give, Op, Request, Send, place
from api.client.errors import error_of
from api.client.records import (
    AuditEntry,
    Delivery,
    Key,
    Queue,
    Readiness,
    RegisteredDataset,
    ServiceLimits,
    ServiceVersion,
    Webhook,
    Worker,
    Zoo,
    read,
    read_list,
)
from api.client.retrying import RetryPolicy, exchange

PAGE_ENTRIES = 500


def get_zoo(policy: RetryPolicy) -> Op[Zoo]:
    """Return what can be converted by name.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read(Zoo, (yield from _get(policy, "/zoo")))


def list_datasets(policy: RetryPolicy) -> Op[list[RegisteredDataset]]:
    """Return the data sets that the operator registered, by name.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read_list(RegisteredDataset, (yield from _get(policy, "/datasets")), "datasets")


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
    yield from exchange(Request(method="DELETE", path=place("keys", key_id)), policy)


def list_workers(policy: RetryPolicy) -> Op[list[Worker]]:
    """Return all workers, by name: what they compute on, and what they do.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read_list(Worker, (yield from _get(policy, "/workers")), "workers")


def drain_worker(policy: RetryPolicy, name: str) -> Op[Worker]:
    """Have a worker finish its job and take no other; takes the scope `admin`.

    Args:
        name: as `workers` has it.

    Raises:
        ApiError: `worker_not_found`, `insufficient_scope`, and whatever any request may meet.
    """
    return read(Worker, (yield from _set(policy, place("workers", name, "drain"))))


def resume_worker(policy: RetryPolicy, name: str) -> Op[Worker]:
    """Have a worker take jobs again; takes the scope `admin`.

    Args:
        name: as `workers` has it.

    Raises:
        ApiError: `worker_not_found`, `insufficient_scope`, and whatever any request may meet.
    """
    return read(Worker, (yield from _set(policy, place("workers", name, "resume"))))


def list_queues(policy: RetryPolicy) -> Op[list[Queue]]:
    """Return all queues, by name: how many jobs of all tenants wait and run.

    Raises:
        ApiError: whatever any request may meet.
    """
    return read_list(Queue, (yield from _get(policy, "/queues")), "queues")


def pause_queue(policy: RetryPolicy, name: str) -> Op[Queue]:
    """Let no job of a queue start; those that run go on. Takes the scope `admin`.

    Args:
        name: as `queues` has it.

    Raises:
        ApiError: `queue_not_found`, `insufficient_scope`, and whatever any request may meet.
    """
    return read(Queue, (yield from _set(policy, place("queues", name, "pause"))))


def resume_queue(policy: RetryPolicy, name: str) -> Op[Queue]:
    """Let the jobs of a paused queue start; takes the scope `admin`.

    Args:
        name: as `queues` has it.

    Raises:
        ApiError: `queue_not_found`, `insufficient_scope`, and whatever any request may meet.
    """
    return read(Queue, (yield from _set(policy, place("queues", name, "resume"))))


def list_audit(
    policy: RetryPolicy,
    *,
    tenant: str | None = None,
    key_id: str | None = None,
    operation: str | None = None,
    outcome: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Op[None]:
    """Yield who did what, the newest first, over all pages; takes the scope `admin`.

    Args:
        tenant: of whom.
        key_id: with which key.
        operation: as docs/openapi.json names it, such as `cancel_job`.
        outcome: how it went.
        since: not before this time.
        until: before this time.
        limit: how many at most.

    Raises:
        ApiError: `insufficient_scope`, a filter is not allowed, and whatever any request may meet.
    """
    filters = {"tenant": tenant, "key_id": key_id, "operation": operation, "outcome": outcome}
    times = {"since": since, "until": until}
    query = [(name, value) for name, value in filters.items() if value is not None]
    query += [(name, time.isoformat()) for name, time in times.items() if time is not None]
    left, cursor = limit, None
    while left is None or left > 0:
        page = [*query, ("limit", str(min(PAGE_ENTRIES, left or PAGE_ENTRIES)))]
        page += [] if cursor is None else [("cursor", cursor)]
        request = Request(method="GET", path="/audit", query=tuple(page))
        found = (yield from exchange(request, policy)).json()
        entries = read_list(AuditEntry, found, "entries")
        for entry in entries:
            yield Give(entry)
        left = None if left is None else left - len(entries)
        cursor = found.get("next_cursor")
        if cursor is None:
            return


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
    yield from exchange(Request(method="DELETE", path=place("webhooks", webhook_id)), policy)


def list_deliveries(policy: RetryPolicy, webhook_id: str) -> Op[list[Delivery]]:
    """Return a webhook's newest messages, at most 100, and what the receiver said.

    Raises:
        ApiError: `webhook_not_found`, and whatever any request may meet.
    """
    found = yield from _get(policy, place("webhooks", webhook_id, "deliveries"))
    return read_list(Delivery, found, "deliveries")


def redeliver(policy: RetryPolicy, webhook_id: str, delivery_id: int) -> Op[Delivery]:
    """Send a webhook's message once more; it has the same id for the receiver.

    Raises:
        ApiError: `delivery_not_found`, `webhook_not_found`, and whatever any request may meet.
    """
    path = place("webhooks", webhook_id, "deliveries", str(delivery_id), "redeliver")
    return read(Delivery, (yield from _post(policy, path, None)))


def _get(policy: RetryPolicy, path: str) -> Op[Any]:
    return (yield from exchange(Request(method="GET", path=path), policy)).json()


def _set(policy: RetryPolicy, path: str) -> Op[Any]:
    """Have something be so; asked twice, it is so just as well."""
    return (yield from exchange(Request(method="POST", path=path), policy)).json()


def _post(policy: RetryPolicy, path: str, value: Any) -> Op[Any]:
    request = Request(method="POST", path=path, json=value, is_repeatable=False)
    return (yield from exchange(request, policy)).json()
