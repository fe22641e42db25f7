"""POST /convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.content_digest import HEADER, StatedDigest, checked_chunks
from api.dependencies import Service, ServiceDependency, TenantDependency
from api.multipart import MAX_REQUEST_BYTES, ReceivedParts, receive_parts, too_large
from api.problems import Problem
from api.request_body import parse_request, request_schema
from api.schemas import JobView
from api.submission import submit

RETRY_SECONDS = 2
"""When it is worth asking for a job again."""

router = APIRouter(tags=["conversion"])

_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": request_schema(),
            "examples": {"zoo": {"value": {"source": {"zoo": "resnet50"}}}},
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

_CONTENT_DIGEST: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "SHA-256 of the body, `sha-256=:<base64>:` (RFC 9530); compared, if it is sent. "
    "A part may have one of its own.",
    "schema": {"type": "string"},
}


@router.post(
    "/convert",
    operation_id="convert",
    summary="Convert a residual network",
    status_code=202,
    openapi_extra={"requestBody": _BODY, "parameters": [_CONTENT_DIGEST]},
)
async def convert(
    request: Request, response: Response, service: ServiceDependency, tenant: TenantDependency
) -> JobView:
    """Take a checkpoint, or the name of a zoo entry, and queue its conversion.

    The answer comes once the job is durable; follow `Location` until its state is final.
    """
    _check_room(request, service)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    digest = StatedDigest("the request", request.headers.get(HEADER))
    chunks = checked_chunks(request.stream(), digest)
    with service.files.temporary_folder() as folder:
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
                "or application/json with the name of a zoo entry",
            )
        job = await run_in_threadpool(
            submit,
            parse_request(parts.request or b""),
            checkpoint=parts.files.get("checkpoint"),
            data=parts.files.get("data"),
            tenant=tenant,
            store=service.store,
            files=service.files,
            limits=service.settings.limits,
        )
    response.headers["Location"] = f"/jobs/{job.id}"
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return JobView.of(job, [], service.store.uploads_of(job))


def _check_room(request: Request, service: Service) -> None:
    """Refuse before the body is read what cannot be kept."""
    max_bytes = service.settings.max_upload_bytes
    length = request.headers.get("content-length", "0")
    num_bytes = int(length) if length.isdecimal() else 0
    if num_bytes > max_bytes:
        raise too_large(max_bytes)
    if service.files.free_bytes() < service.settings.min_free_bytes + num_bytes:
        raise Problem(
            507,
            "storage_full",
            "the service has no room for the upload; have the operator free space in "
            "MOMENTUM_DATA_DIR, then send it again",
        )


async def _small_body(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise too_large(MAX_REQUEST_BYTES)
    return bytes(body)
