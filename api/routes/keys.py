"""API keys, for whoever runs the service."""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.audit_trail import note_target
from api.dependencies import ID, AdminDependency, ServiceDependency
from api.openapi import ADMIN_ONLY
from api.problems import Problem
from api.schemas.keys import KeyList, KeyRequest, KeyView, NewKeyView

SECONDS_PER_DAY = 86400.0

router = APIRouter(prefix="/keys", tags=["keys"])


@router.post(
    "",
    operation_id="create_key",
    summary="Make a key",
    status_code=201,
    openapi_extra=ADMIN_ONLY,
)
def create_key(
    wanted: KeyRequest, service: ServiceDependency, _: AdminDependency, request: Request
) -> NewKeyView:
    """Make a key for a tenant; its secret is in this answer and nowhere else."""
    days = wanted.expires_in_days
    key, secret = service.keys.create(
        tenant=wanted.tenant,
        name=wanted.name,
        scopes=wanted.scopes,
        lifetime_seconds=None if days is None else days * SECONDS_PER_DAY,
    )
    note_target(request, f"/keys/{key.id}")
    return NewKeyView.with_secret(key, secret)


@router.get("", operation_id="list_keys", summary="Look at all keys", openapi_extra=ADMIN_ONLY)
def list_keys(service: ServiceDependency, _: AdminDependency) -> KeyList:
    """Return all keys without their secrets, the newest first."""
    return KeyList(keys=[KeyView.of(key) for key in service.keys.all()])


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    summary="Revoke a key",
    status_code=204,
    openapi_extra=ADMIN_ONLY,
)
def revoke_key(key_id: str, service: ServiceDependency, _: AdminDependency) -> None:
    """End a key at once, and for good; jobs that were asked for with it go on."""
    try:
        if not ID.fullmatch(key_id):
            raise LookupError
        service.keys.revoke(key_id)
        service.known_keys.forget()
    except LookupError:
        raise Problem(
            404, "key_not_found", "there is no such key; GET /keys lists all of them"
        ) from None
