"""Jobs and what they made."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, HTTPException, Query, Response
from fastapi.responses import FileResponse
from pydantic import StringConstraints

from api.cursor import CURSOR_PATTERN, read_cursor, write_cursor
from api.dependencies import ID, JobDependency, ServiceDependency, TenantDependency, job_not_found
from api.downloads import DOWNLOAD_PROBLEMS, Download, download, no_result
from api.job_polling import answer_poll
from api.negotiation import preferred
from api.openapi import problems
from api.schemas.jobs import JobComparison, JobPage, JobSummary, JobView
from worker.contract.artifact_names import (
    BUNDLE_FILE,
    ORIGINAL_FILE,
    PAGE_FILE,
    REPORT_FILE,
    TABLE_FILE,
    WEIGHTS_FILE,
)
from worker.contract.job import JobState
from worker.contract.request import MAX_NAME_CHARACTERS, MAX_TAGS

REPORT_FORMS = {
    "application/json": REPORT_FILE,
    "text/html": PAGE_FILE,
    "text/csv": TABLE_FILE,
}

MAX_LISTED = 200
"""Jobs in one page."""

MAX_COMPARED = 20
"""Jobs in one comparison."""

_NO_NUL = "^[^\\x00]*$"  # PostgreSQL has no text with it
_Text = Annotated[str, StringConstraints(pattern=_NO_NUL)]
_JobId = Annotated[str, StringConstraints(pattern=f"^{ID.pattern}$")]

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("", operation_id="list_jobs", summary="Find jobs")
def list_jobs(
    service: ServiceDependency,
    tenant: TenantDependency,
    state: Annotated[list[JobState], Query(description="One of these.")] = [],  # noqa: B006
    tag: Annotated[list[_Text], Query(max_length=MAX_TAGS, description="Every one of these.")] = [],  # noqa: B006
    text: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_NAME_CHARACTERS,
            pattern=_NO_NUL,
            description="Part of the name, or how the id begins.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR_PATTERN, description="`next_cursor` of the page before.")
    ] = None,
) -> JobPage:
    """Return a page of jobs, the newest first; `next_cursor` leads to the next one."""
    found = service.store.find(
        tenant=tenant,
        states=state,
        tags=tag,
        text=text,
        before=None if cursor is None else read_cursor(cursor),
        limit=limit + 1,  # one more tells whether there is a next page
    )
    shown = found[:limit]
    next_cursor = write_cursor(shown[-1]) if len(found) > limit else None
    return JobPage(jobs=[JobSummary.of(job) for job in shown], next_cursor=next_cursor)


@router.get(
    "/compare",
    operation_id="compare_jobs",
    summary="Hold finished jobs side by side",
    responses=problems("job_not_found", "job_not_finished", "job_failed", "job_cancelled"),
)
def compare_jobs(
    service: ServiceDependency,
    tenant: TenantDependency,
    job: Annotated[
        list[_JobId],
        Query(
            min_length=2,
            max_length=MAX_COMPARED,
            description="Ids of jobs that have succeeded; repeat it: `?job=...&job=...`.",
        ),
    ],
) -> JobComparison:
    """Say in what the requests differ, and every figure of each job, with the best one."""
    try:
        found = [service.store.get(each, tenant=tenant) for each in job]
    except LookupError:
        raise job_not_found() from None
    for one in found:
        if one.state != JobState.SUCCEEDED:
            raise no_result(one)
    return JobComparison.of(found)


@router.delete("/compare", include_in_schema=False)
def not_a_job() -> None:
    """Keep the path above from being taken for a job's id."""
    raise HTTPException(405)


@router.get("/{job_id}", operation_id="get_job", summary="Follow a job", response_model=JobView)
async def get_job(
    job_id: str,
    service: ServiceDependency,
    tenant: TenantDependency,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a job; ask again after `Retry-After` seconds until its state is final."""
    return await answer_poll(job_id, service, tenant=tenant, if_none_match=if_none_match)


@router.get(
    "/{job_id}/weights",
    operation_id="get_weights",
    summary="Download the momentum network's weights",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_weights(
    job: JobDependency,
    service: ServiceDependency,
    form: Annotated[
        Literal["momentum", "original"],
        Query(description="`original`: the weights alone, without what says how they were made."),
    ] = "momentum",
) -> Download:
    """Return the weights as safetensors, under the original architecture's names.

    `momentum_core.load(file)` gives the momentum network back. The form `original` is for the
    original architecture, in any program.
    """
    return download(job, WEIGHTS_FILE if form == "momentum" else ORIGINAL_FILE, service)


@router.get(
    "/{job_id}/bundle",
    operation_id="get_bundle",
    summary="Download the momentum network as a folder",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_bundle(job: JobDependency, service: ServiceDependency) -> Download:
    """Return a zip of a folder in the layout of the Hugging Face hub.

    Configuration, weights, model card, digests, report, request, and a program that loads it:
    `momentum_core.load(folder)` gives the network back.
    """
    return download(job, BUNDLE_FILE, service)


@router.get(
    "/{job_id}/report",
    operation_id="get_report",
    summary="Read the memory report",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_report(
    job: JobDependency,
    service: ServiceDependency,
    accept: Annotated[str | None, Header(max_length=1000)] = None,
) -> Download:
    """Return what training costs by each method, accuracy, plan and environment.

    As JSON; as a page or as CSV where `Accept` likes `text/html` or `text/csv` better.
    """
    answer = download(job, REPORT_FORMS[preferred(accept, tuple(REPORT_FORMS))], service)
    answer.headers["Vary"] = "Accept"
    return answer


@router.get(
    "/{job_id}/report.html",
    operation_id="get_report_page",
    summary="Read the memory report as a page",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_report_page(job: JobDependency, service: ServiceDependency) -> Download:
    """Return the report as one page that needs no network, with plots and tables."""
    return download(job, REPORT_FORMS["text/html"], service)


@router.get(
    "/{job_id}/report.csv",
    operation_id="get_report_table",
    summary="Download the memory report's figures as CSV",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_report_table(job: JobDependency, service: ServiceDependency) -> Download:
    """Return the report's figures, one in a row, with what each rests on."""
    return download(job, REPORT_FORMS["text/csv"], service)


@router.get(
    "/{job_id}/artifacts/{name}",
    operation_id="get_artifact",
    summary="Download any file of a job",
    response_class=FileResponse,
    responses=DOWNLOAD_PROBLEMS,
)
def get_artifact(job: JobDependency, name: str, service: ServiceDependency) -> Download:
    """Return a file that the job lists among its artifacts."""
    return download(job, name, service)
