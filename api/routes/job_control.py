"""Stopping, repeating and forgetting jobs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.dependencies import JobDependency, ServiceDependency, TenantDependency
from api.openapi import problems
from api.place import place
from api.polling import RETRY_SECONDS
from api.problems import Problem
from api.quota import check_jobs
from api.schemas.jobs import JobView
from api.worker_needs import check_workers
from worker.contract.job import Job, JobState
from worker.contract.job_store import JobNotFinishedError
from worker.contract.request import ConvertRequest

_ENDED: dict[int | str, dict[str, Any]] = {200: {"model": JobView, "description": "It has ended."}}

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Stop a job",
    status_code=202,
    responses={**_ENDED, **problems("job_finished")},
)
def cancel_job(
    job: JobDependency, service: ServiceDependency, tenant: TenantDependency, response: Response
) -> JobView:
    """End a job that waits at once (200); one that runs ends within seconds (202).

    Cancelling twice does no harm; a job that has succeeded or failed stays as it is (409).
    """
    store = service.store
    job = store.cancel(job.id, tenant=tenant)
    if job.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise Problem(
            409,
            "job_finished",
            f"the job has {job.state} already; DELETE /jobs/{job.id} forgets it",
        )
    response.status_code = 200 if job.state.is_final else 202
    return JobView.of_all(job, store.artifacts_of(job.id), store.uploads_of(job))


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    summary="Ask for the same again",
    status_code=202,
    responses=problems(
        "job_not_finished", "too_many_jobs", "no_suitable_worker", "unknown_dataset"
    ),
)
def retry_job(
    job: JobDependency,
    service: ServiceDependency,
    tenant: TenantDependency,
    request: Request,
    response: Response,
) -> JobView:
    """Queue a new job with the request and the files of one that has ended."""
    check_jobs(service, tenant)
    # By what was asked for: the network is not looked at again.
    if job.state.is_final:
        asked = ConvertRequest.from_json(job.request)
        check_workers(asked, 0, is_refined=False, workers=service.workers.all())
    store = service.store
    try:
        again = store.retry(job.id, tenant=tenant)
    except JobNotFinishedError:
        raise _not_finished(job, "wait for its end, or cancel it first") from None
    response.headers["Location"] = place(request, f"/jobs/{again.id}")
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return JobView.of_all(again, [], store.uploads_of(again))


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Forget a job",
    status_code=204,
    responses=problems("job_not_finished"),
)
async def delete_job(
    job: JobDependency, service: ServiceDependency, tenant: TenantDependency
) -> None:
    """Forget a job that has ended, with its events and its files."""
    try:
        await run_in_threadpool(service.store.delete, job.id, tenant=tenant)
    except JobNotFinishedError:
        raise _not_finished(job, f"POST /jobs/{job.id}/cancel first") from None


def _not_finished(job: Job, remedy: str) -> Problem:
    return Problem(
        409,
        "job_not_finished",
        f"the job is {job.state}; {remedy}",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )
