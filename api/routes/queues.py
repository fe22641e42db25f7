"""The queues that jobs wait in."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import AdminDependency, CallerDependency, Service, ServiceDependency
from api.openapi import ADMIN_ONLY
from api.problems import Problem
from api.schemas.workers import QueueList, QueueView

router = APIRouter(prefix="/queues", tags=["workers"])


@router.get("", operation_id="list_queues", summary="Look at all queues")
def list_queues(service: ServiceDependency, _: CallerDependency) -> QueueList:
    """Return all queues: how many jobs of all tenants wait and run, and for how long they wait."""
    return QueueList(queues=[QueueView.of(one) for one in service.queues.all()])


@router.post(
    "/{queue_name}/pause",
    operation_id="pause_queue",
    summary="Let no job start",
    openapi_extra=ADMIN_ONLY,
)
def pause_queue(queue_name: str, service: ServiceDependency, _: AdminDependency) -> QueueView:
    """Pause a queue: its jobs wait, with `waiting_for: "queue"`; those that run go on."""
    return _set_paused(queue_name, service, paused=True)


@router.post(
    "/{queue_name}/resume",
    operation_id="resume_queue",
    summary="Let jobs start again",
    openapi_extra=ADMIN_ONLY,
)
def resume_queue(queue_name: str, service: ServiceDependency, _: AdminDependency) -> QueueView:
    """Let the jobs of a paused queue start; the ones that have waited longest come first."""
    return _set_paused(queue_name, service, paused=False)


def _set_paused(name: str, service: Service, *, paused: bool) -> QueueView:
    try:
        if "\0" in name:  # PostgreSQL has no text with it
            raise LookupError
        return QueueView.of(service.queues.set_paused(name, paused=paused))
    except LookupError:
        raise Problem(
            404, "queue_not_found", "there is no such queue; GET /queues lists all of them"
        ) from None
