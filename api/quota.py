"""What a tenant may have and keep, asked before anything is read."""

from __future__ import annotations

from api.dependencies import Service
from api.problems import Problem

BUSY_SECONDS = 30
"""When it is worth trying again."""

MAX_OPEN_INSPECTIONS = 20
"""Of a tenant, at once."""


def check_jobs(service: Service, tenant: str) -> None:
    """Refuse a job more than a tenant may have waiting or running.

    Raises:
        Problem: 429.
    """
    most = service.settings.max_unfinished_jobs
    if service.store.count_unfinished(tenant) >= most:
        raise Problem(
            429,
            "too_many_jobs",
            f"{most} of your jobs wait or run already; ask again when one has ended, or cancel one",
            headers={"Retry-After": str(BUSY_SECONDS)},
        )


def check_inspections(service: Service, tenant: str) -> None:
    """Refuse a question more than a tenant may have open.

    Raises:
        Problem: 429.
    """
    if service.inspections.count_open(tenant) >= MAX_OPEN_INSPECTIONS:
        raise Problem(
            429,
            "too_many_inspections",
            f"{MAX_OPEN_INSPECTIONS} of your inspections wait for their answer already; ask again "
            "when one has it",
            headers={"Retry-After": str(BUSY_SECONDS)},
        )


def check_bytes(num_bytes: int, service: Service, tenant: str) -> None:
    """Refuse a body that a tenant may not keep.

    Raises:
        Problem: 429.
    """
    most = service.settings.max_tenant_bytes
    if most is None:
        return
    used = service.store.stored_bytes(tenant)
    if used + num_bytes > most:
        raise Problem(
            429,
            "quota_exceeded",
            f"your files take {used} bytes of {most}; delete uploads or jobs that you do not need "
            "any more (DELETE /jobs/{id}), then send it again",
        )
