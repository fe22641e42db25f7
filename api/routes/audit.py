"""GET /audit: who did what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.dependencies import AdminDependency, ServiceDependency
from api.openapi import ADMIN_ONLY
from api.schemas.audit import AuditEntryView, AuditPage
from api.schemas.keys import TENANT_PATTERN
from api.schemas.times import Moment
from worker.contract.audit_log import Outcome

MAX_LISTED = 1000

router = APIRouter(tags=["keys"])


@router.get(
    "/audit",
    operation_id="list_audit",
    summary="Look at who did what",
    openapi_extra=ADMIN_ONLY,
)
def list_audit(
    service: ServiceDependency,
    _: AdminDependency,
    tenant: Annotated[str | None, Query(pattern=TENANT_PATTERN)] = None,
    key_id: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    operation: Annotated[
        str | None, Query(pattern="^[a-z_]{1,64}$", description="As this document names it.")
    ] = None,
    outcome: Outcome | None = None,
    since: Annotated[Moment | None, Query(description="Not before this time.")] = None,
    until: Annotated[Moment | None, Query(description="Before this time.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    cursor: Annotated[
        str | None,
        Query(pattern="^[0-9]{1,15}$", description="`next_cursor` of the page before."),
    ] = None,
) -> AuditPage:
    """Return a page of what was changed, and of what was refused for want of a key or a scope.

    The newest first, of all tenants; kept for `MOMENTUM_AUDIT_DAYS`.
    """
    wanted = {"tenant": tenant, "key_id": key_id, "operation": operation, "outcome": outcome}
    found = service.audit.find(
        {name: value for name, value in wanted.items() if value is not None},
        since=_seconds(since),
        until=_seconds(until),
        before=None if cursor is None else int(cursor),
        limit=limit + 1,  # one more tells whether there is a next page
    )
    shown = found[:limit]
    return AuditPage(
        entries=[AuditEntryView.of(one) for one in shown],
        next_cursor=str(shown[-1].id) if len(found) > limit else None,
    )


def _seconds(time: datetime | None) -> float | None:
    if time is None:
        return None
    # A time without a zone is UTC, as all times here.
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
