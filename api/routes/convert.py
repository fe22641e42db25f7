"""POST /convert."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.content_digest import CONTENT_DIGEST_PARAMETER
from api.dependencies import Service, ServiceDependency, TenantDependency
from api.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.idempotency import IDEMPOTENCY_PARAMETER, REPLAYED_HEADER, key_reused, read_key
from api.intake_threads import in_intake
from api.openapi import problems
from api.place import place
from api.polling import RETRY_SECONDS
from api.quota import check_bytes, check_jobs
from api.received_request import BODY, BODY_CODES, received_request
from api.room import check_room, stated_length
from api.schemas.jobs import JobView
from api.submission import submit
from worker.contract.job import Job
from worker.contract.job_store import IdempotencyKey, KeyReusedError
from worker.contract.request import ConvertRequest

router = APIRouter(tags=["conversion"])


@router.post(
    "/convert",
    operation_id="convert",
    summary="Convert a residual network",
    status_code=202,
    responses=problems(
        *BODY_CODES,
        "idempotency_key_reused",
        "too_many_jobs",
        "quota_exceeded",
    ),
    openapi_extra={
        "requestBody": BODY,
        "parameters": [CONTENT_DIGEST_PARAMETER, IDEMPOTENCY_PARAMETER],
    },
)
async def convert(
    request: Request, response: Response, service: ServiceDependency, tenant: TenantDependency
) -> JobView:
    """Take a checkpoint, or the name of a zoo entry, and queue its conversion.

    The answer comes once the job is durable; follow `Location` until its state is final.
    """
    num_bytes = stated_length(request)
    check_room(num_bytes, service)
    await run_in_threadpool(check_jobs, service, tenant)
    await run_in_threadpool(check_bytes, num_bytes, service, tenant)
    async with received_request(request, service, tenant) as (wanted, files):
        key = await run_in_threadpool(
            read_key, request.headers.get(IDEMPOTENCY_HEADER), wanted, files
        )
        try:
            job, is_new = await in_intake(
                service, _submit_once, wanted, files, key, service, tenant
            )
        except KeyReusedError:
            raise key_reused() from None
    if not is_new:
        response.headers[REPLAYED_HEADER] = "true"
    response.headers["Location"] = place(request, f"/jobs/{job.id}")
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    sent = await run_in_threadpool(service.store.uploads_of, job)
    return JobView.of_all(job, [], sent)


def _submit_once(
    request: ConvertRequest,
    files: dict[str, Path],
    key: IdempotencyKey | None,
    service: Service,
    tenant: str,
) -> tuple[Job, bool]:
    """Return the request's job, and whether it is a new one."""
    if key is not None and (earlier := service.store.submitted(key, tenant=tenant)) is not None:
        return earlier, False
    job = submit(
        request,
        checkpoint=files.get("checkpoint"),
        data=files.get("data"),
        tenant=tenant,
        store=service.store,
        files=service.files,
        names=service.names.of(tenant),
        workers=service.workers.all(),
        limits=service.settings.limits,
        key=key,
    )
    return job, True
