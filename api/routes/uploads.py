"""Files that are sent ahead of a request."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from api import tus
from api.content_digest import CONTENT_DIGEST_PARAMETER, HEADER, StatedDigest, checked_chunks
from api.dependencies import ID, Service, ServiceDependency, TenantDependency
from api.multipart import too_large
from api.openapi import problems
from api.place import place
from api.problems import Problem
from api.quota import check_bytes
from api.room import check_room, stated_length
from api.schemas.uploads import UploadView
from momentum_core.durable_files import write_all
from worker.contract.partial_uploads import PartialFile
from worker.contract.upload_store import ReceivedFile

router = APIRouter(prefix="/uploads", tags=["uploads"])

_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {
            "schema": {"type": "string", "format": "binary", "minLength": 1}
        }
    },
}


@router.post(
    "",
    operation_id="create_upload",
    summary="Send a file ahead of a request",
    status_code=201,
    responses=problems(
        "unsupported_content_type",
        "truncated_file",
        "upload_too_large",
        "storage_full",
        "storage_unavailable",
        "quota_exceeded",
        "malformed_digest",
        "checksum_mismatch",
        "tus_version",
        "malformed_header",
    ),
    openapi_extra={"requestBody": _BODY, "parameters": [CONTENT_DIGEST_PARAMETER]},
)
async def create_upload(
    request: Request, response: Response, service: ServiceDependency, tenant: TenantDependency
) -> UploadView:
    """Keep the body as it is; `POST /convert` takes its id as `source.upload` or `data.upload`.

    Nothing looks into the file before a request names it. With `Tus-Resumable: 1.0.0` and
    `Upload-Length` there is no body: the file comes in pieces, by `PATCH`.
    """
    if tus.VERSION_HEADER in request.headers:
        return await _begin(request, response, service, tenant)
    num_bytes = stated_length(request)
    check_room(num_bytes, service)
    await run_in_threadpool(check_bytes, num_bytes, service, tenant)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise Problem(
            415,
            "unsupported_content_type",
            "POST /uploads takes the file itself as its body, not a form: "
            "curl --data-binary @FILE -H 'Content-Type: application/octet-stream'",
        )
    async with contextmanager_in_threadpool(service.files.temporary_folder()) as folder:
        path = folder / "upload"
        await _receive(request, path, service.settings.max_upload_bytes)
        kept = await run_in_threadpool(service.uploads.keep, path, tenant=tenant)
    response.headers["Location"] = place(request, f"/uploads/{kept.id}")
    return UploadView.of(kept)


async def _begin(request: Request, response: Response, service: Service, tenant: str) -> UploadView:
    """Make an empty file that is to come in pieces."""
    tus.check_version(request.headers)
    num_bytes = tus.read_count(request.headers, "Upload-Length")
    metadata = tus.read_metadata(request.headers)
    if num_bytes == 0:
        raise Problem(422, "truncated_file", "Upload-Length is 0: there is nothing to send")
    check_room(num_bytes, service)
    await run_in_threadpool(check_bytes, num_bytes, service, tenant)
    begin = partial(service.partial_uploads.begin, metadata=metadata, tenant=tenant)
    file = await run_in_threadpool(begin, num_bytes)
    response.headers.update(
        tus.state(0, file.expires_at) | {"Location": place(request, f"/uploads/{file.id}")}
    )
    return UploadView.of(file)


def _upload(
    upload_id: str, service: ServiceDependency, tenant: TenantDependency
) -> ReceivedFile | PartialFile:
    try:
        if not ID.fullmatch(upload_id):
            raise LookupError
        # In this order: one that is finished meanwhile is found by the second look.
        with suppress(LookupError):
            service.partial_uploads.settle(upload_id, tenant=tenant)
            return service.partial_uploads.get(upload_id, tenant=tenant)
        return service.uploads.get(upload_id, tenant=tenant)
    except LookupError:
        raise _not_found(service) from None


UploadDependency = Annotated[ReceivedFile | PartialFile, Depends(_upload)]


@router.get("/{upload_id}", operation_id="get_upload", summary="Look at a file that was sent")
def get_upload(upload: UploadDependency) -> UploadView:
    """Return its size, how much of it is there, its SHA-256, and when it expires."""
    return UploadView.of(upload)


@router.delete(
    "/{upload_id}", operation_id="delete_upload", summary="Forget a file", status_code=204
)
def delete_upload(
    upload: UploadDependency, service: ServiceDependency, tenant: TenantDependency
) -> None:
    """Forget a file at once; jobs that were made of it are not touched."""
    try:
        service.uploads.drop(upload.id, tenant=tenant)
    except LookupError:
        raise _not_found(service) from None


async def _receive(request: Request, path: Path, max_bytes: int) -> None:
    """Write the body to a new file.

    Raises:
        Problem: it is empty, too large, or not what its digest says.
    """
    digest = StatedDigest("the request", request.headers.get(HEADER))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        received = 0
        async for chunk in checked_chunks(request.stream(), digest):
            received += len(chunk)
            if received > max_bytes:
                raise too_large(max_bytes)
            await run_in_threadpool(write_all, descriptor, chunk)
        if not received:
            raise Problem(
                422,
                "truncated_file",
                "the file is empty; send it again",
            )
    finally:
        os.close(descriptor)


def _not_found(service: Service) -> Problem:
    return Problem(
        404,
        "upload_not_found",
        "there is no such upload; it may have expired, after "
        f"{service.settings.upload_hours:g} hours: send it again with POST /uploads",
    )
