"""Files that are sent ahead piece by piece: tus 1.0 under /uploads."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from api import tus
from api.dependencies import ServiceDependency, TenantDependency
from api.multipart import too_large
from api.openapi import problems
from api.problems import Problem
from api.room import check_room, stated_length
from api.routes.uploads import UploadDependency
from momentum_core.durable_files import write_all
from worker.contract.partial_uploads import PartialFile, UploadLockedError, Writing

LOCKED_SECONDS = 1
"""When it is worth trying again."""

router = APIRouter(prefix="/uploads", tags=["uploads"])

_BODY: dict[str, Any] = {
    "required": True,
    "content": {tus.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
}
_PARAMETERS = [
    tus.VERSION_PARAMETER,
    {
        "name": "Upload-Offset",
        "in": "header",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
        "description": "Where the piece begins.",
    },
    {
        "name": "Upload-Checksum",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`sha256 ` and the piece's digest in base64.",
    },
]


@router.options(
    "", operation_id="get_upload_protocol", summary="How files can be sent", status_code=204
)
async def get_upload_protocol(service: ServiceDependency) -> Response:
    """Say which version and extensions of tus there are."""
    return Response(status_code=204, headers=tus.capabilities(service.settings.max_upload_bytes))


@router.head(
    "/{upload_id}",
    operation_id="get_upload_offset",
    summary="How much of a file has arrived",
    response_class=Response,
)
def get_upload_offset(upload: UploadDependency) -> Response:
    """Return `Upload-Offset`: from there on the rest is to be sent."""
    if isinstance(upload, PartialFile):
        headers = tus.description(upload)
    else:
        length = {"Upload-Length": str(upload.num_bytes)}
        headers = tus.state(upload.num_bytes, upload.expires_at) | length
    return Response(headers=headers | {"Cache-Control": "no-store"})


@router.patch(
    "/{upload_id}",
    operation_id="append_to_upload",
    summary="Send the next piece of a file",
    status_code=204,
    responses=problems(
        "tus_version",
        "malformed_header",
        "malformed_digest",
        "unsupported_content_type",
        "upload_complete",
        "offset_conflict",
        "upload_locked",
        "upload_too_large",
        "chunk_checksum_mismatch",
        "storage_full",
        "storage_unavailable",
    ),
    openapi_extra={"requestBody": _BODY, "parameters": _PARAMETERS},
)
async def append_to_upload(
    upload: UploadDependency,
    request: Request,
    service: ServiceDependency,
    tenant: TenantDependency,
) -> Response:
    """Put a piece at the end of the file; after the last one, requests may name it.

    What arrives of a piece before its connection breaks is kept, unless `Upload-Checksum` came
    with it: `HEAD` tells where to go on.
    """
    headers = request.headers
    tus.check_version(headers)
    checksum = tus.read_checksum(headers)
    kind = headers.get("content-type", "")
    if kind != tus.CONTENT_TYPE:
        raise Problem(
            415,
            "unsupported_content_type",
            f"the Content-Type is {kind[:80]!a}; PATCH takes {tus.CONTENT_TYPE}",
        )
    offset = tus.read_count(headers, "Upload-Offset")
    if not isinstance(upload, PartialFile):
        raise _complete(upload.num_bytes)
    check_room(stated_length(request), service)
    writing = service.partial_uploads.writing(upload.id, tenant=tenant)
    try:
        async with contextmanager_in_threadpool(writing) as opened:
            num_received = await _append(request, opened, offset, checksum)
            if num_received == upload.num_bytes:
                finish = partial(service.partial_uploads.finish, upload.id, tenant=tenant)
                await run_in_threadpool(finish)
    except UploadLockedError:
        raise Problem(
            423,
            "upload_locked",
            "another request sends a piece of this upload; try again when it has ended",
            headers={"Retry-After": str(LOCKED_SECONDS)},
        ) from None
    except LookupError:
        raise Problem(
            404, "upload_not_found", "the upload was finished or deleted while the piece came"
        ) from None
    return Response(status_code=204, headers=tus.state(num_received, upload.expires_at))


async def _append(
    request: Request, opened: Writing, offset: int, checksum: tus.Checksum | None
) -> int:
    """Write a piece; return how much of the file is there afterwards."""
    received, descriptor = opened.file.num_received, opened.descriptor
    if offset != received:
        raise Problem(
            409,
            "offset_conflict",
            f"Upload-Offset is {offset}, and {received} bytes are there; go on from there",
            headers={"Upload-Offset": str(received)},
        )
    digest = None if checksum is None else checksum.new_hash()
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > opened.file.num_bytes:
                raise too_large(opened.file.num_bytes)
            if digest is not None:
                digest.update(chunk)
            await run_in_threadpool(write_all, descriptor, chunk)
        if checksum is not None and digest is not None and digest.digest() != checksum.digest:
            raise Problem(
                460,
                "chunk_checksum_mismatch",
                f"the {checksum.algorithm} of the piece is {digest.hexdigest()}, Upload-Checksum "
                f"says {checksum.digest.hex()}: it was changed on its way; send it again",
            )
    except BaseException as error:
        # What nobody has checked does not stay; without a checksum, what has come is kept.
        is_foreign = isinstance(error, Problem) and error.code == "upload_too_large"
        if digest is not None or is_foreign:
            os.ftruncate(descriptor, offset)
        raise
    return received


def _complete(num_bytes: int) -> Problem:
    return Problem(409, "upload_complete", f"the upload has all of its {num_bytes} bytes already")
