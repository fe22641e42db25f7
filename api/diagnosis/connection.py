"""The service as its clients reach it."""

from __future__ import annotations

from importlib.metadata import version

from api.client import ApiError, Client, RetryPolicy
from api.diagnosis.findings import Finding, fault, ok, skipped, warning


def check_connection(url: str, key: str | None) -> list[Finding]:
    """Ask the service who it is, whether it can work, and whether the key holds.

    Args:
        url: where it should answer.
        key: to ask with; None without one.
    """
    with Client(url, key=key, policy=RetryPolicy(max_tries=1)) as client:
        return [*_service(client, url), _key(client, key), *_paused(client)]


def _service(client: Client, url: str) -> list[Finding]:
    try:
        ready = client.readiness()
    except ApiError as error:
        if error.code == "connection_failed":
            remedy = "start it with momentum serve, or say where it is with --url or MOMENTUM_URL"
            return [fault("service", f"nothing answers at {url}", remedy)]
        return [
            fault(
                "service",
                f"what answers at {url} is not Momentum Zoo ({error.code})",
                "say where the service is with --url or MOMENTUM_URL; serve takes another --port",
            )
        ]
    failed = {name: state for name, state in ready.checks.items() if state != "ok"}
    if not failed:
        return [ok("service", f"it answers at {url}, and can work")]
    return [
        fault(
            f"service's {name}",
            f"the service at {url} says of its {name}: {state}",
            f"look at the {name} where the service runs; its own log says more",
        )
        for name, state in failed.items()
    ]


def _key(client: Client, key: str | None) -> Finding:
    try:
        client.limits()
        service = client.version().version
    except ApiError as error:
        if error.status in (401, 403):
            remedy = (
                "send one with --key or MOMENTUM_KEY"
                if key is None
                else "have another one made with momentum keys create"
            )
            return fault("key", error.detail, remedy)
        return skipped("key", "the service does not answer")
    own = version("momentum-zoo")
    if service != own:
        return warning(
            "version",
            f"this command is of version {own}, the service of {service}",
            "install the same version on both sides",
        )
    return ok("key", "it holds" if key is not None else "none is needed from here")


def _paused(client: Client) -> list[Finding]:
    try:
        paused = [queue for queue in client.queues() if queue.paused]
    except ApiError:
        return []  # what keeps it from answering was said above
    return [
        warning(
            "queue",
            f"{queue.name} is paused, and {queue.queued} jobs wait",
            f"momentum queues resume {queue.name}",
        )
        for queue in paused
    ]
