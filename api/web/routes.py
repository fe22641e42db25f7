"""The pages."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import StringConstraints

from api.cursor import CURSOR_PATTERN
from api.dependencies import (
    ID,
    CallerDependency,
    JobDependency,
    Service,
    ServiceDependency,
    TenantDependency,
)
from api.problems import Problem
from api.routes.about import get_limits
from api.routes.inspect import get_inspection
from api.routes.jobs import MAX_COMPARED, compare_jobs, list_jobs
from api.routes.queues import list_queues
from api.routes.workers import list_workers
from api.routes.zoo import list_zoo
from api.schemas.jobs import JobView
from api.schemas.keys import KeyView
from api.schemas.logs import text_of
from api.web.curves import LABELS, curves
from api.web.pages import HEADERS, PageRoute, page
from api.web.timeline import seconds_left, stages
from api.words import result_pairs
from worker.contract.artifact_names import REPORT_FILE
from worker.contract.file_store import DamagedFileError
from worker.contract.job import Job, JobState
from worker.contract.job_logs import MAX_LINES, RESERVED_LINES
from worker.contract.key_store import Scope
from worker.contract.shared_files import StoreUnavailableError
from worker.contract.worker_store import datasets_at_hand

SHOWN_LINES = 200
"""Of a log; the rest is in the file."""

# Swagger UI writes styles into the page and has its icons as data.
REFERENCE_POLICY = HEADERS["Content-Security-Policy"].replace(
    "style-src 'self'; img-src 'self'", "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_Id = Annotated[str, StringConstraints(pattern=f"^{ID.pattern}$")]


@router.get("/")
def show_form(request: Request, service: ServiceDependency, tenant: TenantDependency) -> Response:
    """Ask what is to be converted."""
    return page(
        request,
        "convert",
        zoo=list_zoo(),
        datasets=list(datasets_at_hand(service.workers.all())),
        limits=get_limits(service, tenant),
    )


@router.get("/ui/inspections/{inspection_id}")
def show_inspection(
    request: Request,
    inspection_id: str,
    service: ServiceDependency,
    tenant: TenantDependency,
) -> Response:
    """Show what a conversion would do; the form puts it on its own page."""
    answer = Response()
    found = get_inspection(inspection_id, service, tenant, answer)
    return page(request, "inspection", found=found)


@router.get("/ui/jobs")
def show_jobs(
    request: Request,
    service: ServiceDependency,
    tenant: TenantDependency,
    state: Annotated[str, Query(pattern="^[a-z]*$", max_length=20)] = "",
    text: Annotated[str, Query(max_length=200, pattern="^[^\\x00]*$")] = "",
    tag: Annotated[str, Query(max_length=64, pattern="^[^\\x00]*$")] = "",
    cursor: Annotated[str | None, Query(pattern=CURSOR_PATTERN)] = None,
) -> Response:
    """List jobs, the newest first."""
    wanted = [JobState(state)] if state in set(JobState) else []
    found = list_jobs(
        service, tenant, state=wanted, tag=[tag] if tag else [], text=text or None, cursor=cursor
    )
    return page(
        request,
        "jobs",
        jobs=found.jobs,
        next_cursor=found.next_cursor,
        cursor=cursor,
        states=[str(one) for one in JobState],
        wanted={"state": state, "text": text, "tag": tag},
    )


@router.get("/ui/jobs/{job_id}")
def show_job(
    request: Request, job: JobDependency, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """Show how a job goes, and what came of it."""
    events = service.store.outline_of(job)
    now = time.time()
    store = service.store
    view = JobView.of_all(job, store.artifacts_of(job.id), store.uploads_of(job))
    report = _report(job, view, service)
    lines = service.logs.newest_of(job.id, limit=SHOWN_LINES)
    return page(
        request,
        "job",
        job=view,
        is_over=job.state.is_final,
        stages=stages(job, events, now),
        seconds_left=seconds_left(job, events, now),
        seconds=_seconds(job, now),
        curves=curves(job, events),
        labels=LABELS,
        pairs=result_pairs(view),
        report=report,
        log=text_of(lines),
        has_more_lines=len(lines) == SHOWN_LINES,
        last_event=events[-1].number if events else 0,
        may_write=_may_write(caller.scopes),
    )


@router.get("/ui/jobs/{job_id}/log")
def show_log(job: JobDependency, service: ServiceDependency) -> Response:
    """Show all lines of a job's log as text."""
    lines = service.logs.newest_of(job.id, limit=MAX_LINES + RESERVED_LINES)
    return PlainTextResponse(text_of(lines))


@router.get("/ui/compare")
def show_comparison(
    request: Request,
    service: ServiceDependency,
    tenant: TenantDependency,
    job: Annotated[list[_Id], Query(max_length=MAX_COMPARED)] = [],  # noqa: B006
) -> Response:
    """Hold finished jobs side by side."""
    if len(set(job)) < 2:
        raise Problem(422, "invalid_request", "choose two jobs or more in the list of jobs")
    found = compare_jobs(service, tenant, list(dict.fromkeys(job)))
    return page(request, "compare", found=found)


@router.get("/ui/service")
def show_service(
    request: Request,
    service: ServiceDependency,
    caller: CallerDependency,
    tenant: TenantDependency,
) -> Response:
    """Show workers, queues, and what is used of the limits."""
    return page(
        request,
        "service",
        workers=list_workers(service, caller).workers,
        queues=list_queues(service, caller).queues,
        limits=get_limits(service, tenant),
        is_admin=Scope.ADMIN in caller.scopes,
    )


@router.get("/ui/keys")
def show_keys(request: Request, service: ServiceDependency, caller: CallerDependency) -> Response:
    """List the API keys."""
    is_admin = Scope.ADMIN in caller.scopes
    keys = [KeyView.of(one) for one in service.keys.all()] if is_admin else []
    return page(
        request,
        "keys",
        keys=keys,
        is_admin=is_admin,
        scopes=[str(one) for one in Scope],
        needs_keys=service.settings.require_keys,
    )


@router.get("/docs")
def show_reference(request: Request) -> Response:
    """Show the OpenAPI document, with forms to try it."""
    answer = page(request, "reference")
    answer.headers["Content-Security-Policy"] = REFERENCE_POLICY
    return answer


def _may_write(scopes: frozenset[Scope]) -> bool:
    return bool({Scope.WRITE, Scope.ADMIN} & scopes)


def _report(job: Job, view: JobView, service: Service) -> dict[str, Any] | None:
    digest = next((one.sha256 for one in view.artifacts if one.name == REPORT_FILE), None)
    if digest is None or job.state != JobState.SUCCEEDED:
        return None
    try:
        found: dict[str, Any] = json.loads(service.files.verified_path(digest).read_bytes())
    except (DamagedFileError, StoreUnavailableError):  # or deleted meanwhile
        return None
    return found


def _seconds(job: Job, now: float) -> float | None:
    if job.started_at is None:
        return None
    return max(0.0, (job.finished_at or now) - job.started_at)
