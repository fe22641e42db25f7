"""GET /version and /limits: what a client may expect of this service."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version

from fastapi import APIRouter

from api.dependencies import ServiceDependency, TenantDependency
from api.schemas.service import LimitsView, UsageView, VersionView

router = APIRouter(tags=["service"])


@router.get("/version", operation_id="get_version", summary="What runs here")
async def get_version() -> VersionView:
    """Return the versions of the service and of Python."""
    return VersionView(version=version("momentum-zoo"), python=platform.python_version())


@router.get("/limits", operation_id="get_limits", summary="What may be asked for")
def get_limits(service: ServiceDependency, tenant: TenantDependency) -> LimitsView:
    """Return the limits of requests and files, and what the caller's tenant uses of its own."""
    settings = service.settings
    return LimitsView(
        max_upload_bytes=settings.max_upload_bytes,
        upload_hours=settings.upload_hours,
        job_days=settings.job_days,
        max_unfinished_jobs=settings.max_unfinished_jobs,
        max_tenant_bytes=settings.max_tenant_bytes,
        intake=asdict(settings.limits),
        used=UsageView(
            unfinished_jobs=service.store.count_unfinished(tenant),
            stored_bytes=service.store.stored_bytes(tenant),
        ),
    )
