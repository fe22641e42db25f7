"""The workers that carry jobs out."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import AdminDependency, CallerDependency, Service, ServiceDependency
from api.openapi import ADMIN_ONLY
from api.problems import Problem
from api.schemas.workers import WorkerList, WorkerView
from worker.contract.key_store import Scope

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("", operation_id="list_workers", summary="Look at all workers")
def list_workers(service: ServiceDependency, caller: CallerDependency) -> WorkerList:
    """Return all workers: what they compute on, whether they are heard of, and what they do.

    A key without the scope `admin` sees of other tenants' jobs only that a worker is busy.
    """
    tenant = None if Scope.ADMIN in caller.scopes else caller.tenant
    found = service.workers.all()
    return WorkerList(workers=[WorkerView.of(one, tenant=tenant) for one in found])


@router.post(
    "/{worker_name}/drain",
    operation_id="drain_worker",
    summary="Let a worker rest",
    openapi_extra=ADMIN_ONLY,
)
def drain_worker(worker_name: str, service: ServiceDependency, _: AdminDependency) -> WorkerView:
    """Have a worker finish its job and take no other, until it is told to resume or restarts."""
    return _set_draining(worker_name, service, draining=True)


@router.post(
    "/{worker_name}/resume",
    operation_id="resume_worker",
    summary="Let a worker go on",
    openapi_extra=ADMIN_ONLY,
)
def resume_worker(worker_name: str, service: ServiceDependency, _: AdminDependency) -> WorkerView:
    """Have a worker take jobs again."""
    return _set_draining(worker_name, service, draining=False)


def _set_draining(name: str, service: Service, *, draining: bool) -> WorkerView:
    try:
        if "\0" in name:  # PostgreSQL has no text with it
            raise LookupError
        return WorkerView.of(service.workers.set_draining(name, draining=draining), tenant=None)
    except LookupError:
        raise Problem(
            404, "worker_not_found", "there is no such worker; GET /workers lists all of them"
        ) from None
