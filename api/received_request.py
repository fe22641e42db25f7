"""What POST /convert and POST /inspect take: the request, its files, and files sent ahead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from api.content_digest import HEADER, StatedDigest, checked_chunks
from api.dependencies import Service
from api.multipart import MAX_REQUEST_BYTES, ReceivedParts, receive_parts, too_large
from api.openapi import FILE_CODES
from api.problems import Problem
from api.request_body import parse_request, request_schema
from worker.contract.request import ConvertRequest

BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": request_schema(),
            "examples": {
                "zoo": {"value": {"source": {"zoo": "resnet50"}}},
                "hub": {"value": {"source": {"zoo": "timm:resnetv2_50.a1h_in1k"}}},
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
"""The body, for the OpenAPI document."""

BODY_CODES = (
    *FILE_CODES,
    "malformed_json",
    "malformed_multipart",
    "malformed_digest",
    "unsupported_content_type",
    "unknown_part",
    "request_too_large",
    "upload_too_large",
    "storage_full",
    "storage_unavailable",
    "stored_file_damaged",
    "missing_source",
    "ambiguous_source",
    "missing_preprocessing",
    "no_suitable_worker",
    "unknown_dataset",
    "unknown_zoo_entry",
    "zoo_unavailable",
    "library_missing",
    "inspection_not_answered",
    "invalid_option",
    "upload_not_found",
    "upload_incomplete",
)
"""What such a body may be refused for."""


@asynccontextmanager
async def received_request(
    request: Request, service: Service, tenant: str
) -> AsyncIterator[tuple[ConvertRequest, dict[str, Path]]]:
    """Receive a body; give the request, and its files by the name of their part.

    The files are in a temporary folder of the file store, which ends with the context.

    Raises:
        Problem: it is no such request, or it names an upload that is not there.
    """
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
        yield wanted, parts.files


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
            path.hardlink_to(service.uploads.bring(service.uploads.get(upload_id, tenant=tenant)))
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
