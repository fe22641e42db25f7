"""POST /convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from api.content_digest import CONTENT_DIGEST_PARAMETER, HEADER, StatedDigest, checked_chunks
from api.dependencies import Service, ServiceDependency, TenantDependency
from api.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.idempotency import IDEMPOTENCY_PARAMETER, REPLAYED_HEADER, key_reused, read_key
from api.multipart import MAX_REQUEST_BYTES, ReceivedParts, receive_parts, too_large
from api.openapi import FILE_CODES, problems
from api.place import place
from api.polling import RETRY_SECONDS
from api.problems import Problem
from api.quota import check_bytes, check_jobs
from api.request_body import parse_request, request_schema
from api.room import check_room, stated_length
from api.schemas.jobs import JobView
from api.submission import submit
from worker.contract.job import Job
from worker.contract.job_store import IdempotencyKey, KeyReusedError
from worker.contract.request import ConvertRequest

router = APIRouter(tags=["conversion"])

_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": request_schema(),
            "examples": {
                "zoo": {"value": {"source": {"zoo": "resnet50"}}},
                "upload": {"value": {"source": {"upload": "0123456789abcdef0123456789abcdef"}}},
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "checkpoint": {
                        "type": "string",
                        "format": "binary",
                        "description": "Weights: .pt or .pth of torch.save, or safetensors.",
                    },
                    "data": {
                        "type": "string",
                        "format": "binary",
                        "description": "An .npz with x_train y_train x_test y_test; images uint8, "
                        "N x height x width x channels. Or a zip, tar, tar.gz or tar.zst of JPEG, "
                        "PNG and WebP images in one folder for each class.",
                    },
                    "request": request_schema(),
                },
            },
            "encoding": {"request": {"contentType": "application/json"}},
        },
    },
}


@router.post(
    "/convert",
    operation_id="convert",
    summary="Convert a residual network",
    status_code=202,
    responses=problems(
        *FILE_CODES,
        "malformed_json",
        "malformed_multipart",
        "malformed_digest",
        "unsupported_content_type",
        "unknown_part",
        "request_too_large",
        "upload_too_large",
        "storage_full",
        "missing_source",
        "ambiguous_source",
        "missing_preprocessing",
        "idempotency_key_reused",
        "unknown_zoo_entry",
        "invalid_option",
        "upload_not_found",
        "upload_incomplete",
        "too_many_jobs",
        "quota_exceeded",
    ),
    openapi_extra={
        "requestBody": _BODY,
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
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    digest = StatedDigest("the request", request.headers.get(HEADER))
    chunks = checked_chunks(request.stream(), digest)
    async with contextmanager_in_threadpool(service.files.temporary_folder()) as folder:
        if kind == "multipart/form-data":
            parts = await receive_parts(
                chunks,
                content_type,
                folder,
                max_bytes=service.settings.max_upload_bytes,
            )
        elif kind == "application/json":
            parts = ReceivedParts(request=await _small_body(chunks))
        else:
            raise Problem(
                415,
                "unsupported_content_type",
                f"the Content-Type is {kind[:80]!a}; send multipart/form-data with a checkpoint, "
                "or application/json with the name of a zoo entry or the id of an upload",
            )
        wanted = parse_request(parts.request or b"")
        await run_in_threadpool(_fetch_uploads, wanted, parts, folder, service, tenant)
        key = await run_in_threadpool(
            read_key, request.headers.get(IDEMPOTENCY_HEADER), wanted, parts.files
        )
        try:
            job, is_new = await run_in_threadpool(_submit_once, wanted, parts, key, service, tenant)
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
    parts: ReceivedParts,
    key: IdempotencyKey | None,
    service: Service,
    tenant: str,
) -> tuple[Job, bool]:
    """Return the request's job, and whether it is a new one."""
    if key is not None and (earlier := service.store.submitted(key, tenant=tenant)) is not None:
        return earlier, False
    job = submit(
        request,
        checkpoint=parts.files.get("checkpoint"),
        data=parts.files.get("data"),
        tenant=tenant,
        store=service.store,
        files=service.files,
        limits=service.settings.limits,
        key=key,
    )
    return job, True


def _fetch_uploads(
    request: ConvertRequest, parts: ReceivedParts, folder: Path, service: Service, tenant: str
) -> None:
    """Put the files that were sent ahead where they would be had they come as parts.

    Raises:
        Problem: there is no such upload, or a part came besides.
    """
    source = request.source.upload if request.source is not None else None
    data = request.data.upload if request.data is not None else None
    for part, upload_id in (("checkpoint", source), ("data", data)):
        if upload_id is None:
            continue
        if part in parts.files:
            raise Problem(
                422,
                "ambiguous_source",
                f"the part {part!r} was sent and an upload named; leave one of them out",
            )
        path = folder / part
        try:
            # A second name for the file: dropping the upload meanwhile does no harm.
            path.hardlink_to(service.uploads.get(upload_id, tenant=tenant).path)
        except (LookupError, FileNotFoundError):
            _refuse_partial(upload_id, service, tenant)
            raise Problem(
                404,
                "upload_not_found",
                f"there is no upload {upload_id[:80]!a}; it may have expired: send the file "
                "again with POST /uploads",
            ) from None
        parts.files[part] = path


def _refuse_partial(upload_id: str, service: Service, tenant: str) -> None:
    try:
        found = service.partial_uploads.get(upload_id, tenant=tenant)
    except LookupError:
        return
    raise Problem(
        409,
        "upload_incomplete",
        f"{found.num_received} of {found.num_bytes} bytes of the upload are there; send the rest "
        f"with PATCH /uploads/{found.id}",
    )


async def _small_body(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise too_large(MAX_REQUEST_BYTES)
    return bytes(body)
