"""A job's files as answers: ranges, entity tags, digests."""

from __future__ import annotations

import base64
import os
from http import HTTPStatus
from secrets import token_hex

import anyio
from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from api.byte_ranges import ByteRange, MalformedRangeError, NoRangeInsideError, read_ranges
from api.conditional import Version
from api.dependencies import Service
from api.openapi import problems
from api.polling import RETRY_SECONDS
from api.problems import Problem, answer_problem, storage_unavailable
from worker.contract.file_store import DamagedFileError, MissingFileError
from worker.contract.job import Artifact, Job, JobState
from worker.contract.shared_files import StoreUnavailableError

_SHOWN = ("application/json", "text/html", "text/csv")
"""What a browser shows in place of saving it."""

# A page of ours: its style is inside it, and nothing else may be loaded or run.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; sandbox",
}


DOWNLOAD_PROBLEMS = problems(
    "job_not_finished",
    "job_failed",
    "job_cancelled",
    "artifact_not_found",
    "malformed_range",
    "range_not_satisfiable",
    "precondition_failed",
    "stored_file_damaged",
    "storage_unavailable",
)

CHUNK_BYTES = 64 << 10
"""Read and sent at once."""


class Download(Response):
    """A file that never changes under its digest, whole or in part (RFC 9110, RFC 9530).

    It is open before the answer begins: what is deleted meanwhile arrives whole.
    """

    def __init__(self, artifact: Artifact, job: Job, service: Service) -> None:
        """Answer with one of a job's files."""
        digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
        kind = "inline" if artifact.media_type in _SHOWN else "attachment"
        super().__init__(
            media_type=artifact.media_type,
            headers={
                "Accept-Ranges": "bytes",
                "Content-Disposition": f'{kind}; filename="{job.id[:8]}-{artifact.name}"',
                "ETag": f'"{artifact.sha256}"',
                "Repr-Digest": f"sha-256=:{digest}:",
                "Cache-Control": "private, no-cache",
            }
            | (_PAGE_HEADERS if artifact.media_type == "text/html" else {}),
        )
        self._sha256, self._files = artifact.sha256, service.files
        self._threads = service.intake_threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, a part of it, or why not."""
        try:
            path = await anyio.to_thread.run_sync(
                self._files.verified_path, self._sha256, limiter=self._threads
            )
            file = await anyio.open_file(path, "rb")
        except (MissingFileError, FileNotFoundError):
            gone = Problem(
                404, "artifact_not_found", "the job was deleted meanwhile, or has expired"
            )
            await answer_problem(gone)(scope, receive, send)
            return
        except DamagedFileError as error:
            damaged = Problem(500, error.code, str(error))
            await answer_problem(damaged)(scope, receive, send)
            return
        except StoreUnavailableError as error:
            await answer_problem(storage_unavailable(error))(scope, receive, send)
            return
        async with file:
            found = os.fstat(file.wrapped.fileno())
            version = Version(self.headers["etag"], int(found.st_mtime))
            self.headers["Last-Modified"] = version.last_modified
            headers = Headers(scope=scope)
            if version.fails(headers):
                await answer_problem(_other_version())(scope, receive, send)
            elif version.is_held(headers):
                await self._unchanged()(scope, receive, send)
            else:
                wanted = headers.get("range")
                # RFC 9110 section 14.2: for any other method than GET the header means nothing.
                if scope["method"] != "GET" or not version.is_in_parts(headers.get("if-range")):
                    wanted = None
                try:
                    ranges = read_ranges(wanted, found.st_size) if wanted is not None else []
                except (MalformedRangeError, NoRangeInsideError) as error:
                    refused = _range_refused(error, found.st_size)
                    await answer_problem(refused)(scope, receive, send)
                    return
                body = self._prepare(ranges, found.st_size)
                if scope["method"] == "HEAD":
                    body = []
                await self._send(file, body, Request(scope, receive), send)

    def _unchanged(self) -> Response:
        # A browser takes the policy, too, for the page that it has.
        names = (
            *("etag", "repr-digest", "cache-control", "last-modified"),
            "content-security-policy",
        )
        kept = {name: self.headers[name] for name in names if name in self.headers}
        return Response(status_code=304, headers=kept)

    def _prepare(self, ranges: list[ByteRange], size: int) -> list[bytes | ByteRange]:
        """Set status and headers; return what the body is made of."""
        body: list[bytes | ByteRange] = [ByteRange(0, size)]
        if len(ranges) == 1:
            body = [*ranges]
            self.headers["Content-Range"] = ranges[0].content_range(size)
        elif ranges:
            boundary, kind = token_hex(16), self.headers["content-type"]
            self.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
            body = []
            for one in ranges:
                head = f"Content-Type: {kind}\r\nContent-Range: {one.content_range(size)}"
                body += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), one, b"\r\n"]
            body.append(f"--{boundary}--\r\n".encode())
        self.status_code = 206 if ranges else 200
        length = sum(len(one) if isinstance(one, bytes) else one.end - one.start for one in body)
        self.headers["Content-Length"] = str(length)
        return body

    async def _send(
        self,
        file: anyio.AsyncFile[bytes],
        body: list[bytes | ByteRange],
        request: Request,
        send: Send,
    ) -> None:
        start = {"type": "http.response.start", "headers": self.raw_headers}
        await send(start | {"status": self.status_code})
        for piece in body:
            if isinstance(piece, bytes):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                continue
            await file.seek(piece.start)
            left = piece.end - piece.start
            while left and not await request.is_disconnected():
                chunk = await file.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise OSError(f"{self._sha256} is shorter than it was")
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _other_version() -> Problem:
    return Problem(
        HTTPStatus.PRECONDITION_FAILED,
        "precondition_failed",
        "the file is not the version that If-Match or If-Unmodified-Since asks for; ask for it "
        "without that header",
    )


def _range_refused(error: Exception, size: int) -> Problem:
    if isinstance(error, MalformedRangeError):
        return Problem(
            400, "malformed_range", "the header Range is malformed; send bytes=FIRST-LAST"
        )
    return Problem(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        f"the file has {size} bytes; ask for a range inside",
        headers={"Content-Range": f"bytes */{size}"},
    )


def download(job: Job, name: str, service: Service) -> Download:
    """Return one of a job's files.

    Raises:
        Problem: 409, the job has not succeeded; 404, it has no such file.
    """
    if job.state != JobState.SUCCEEDED:
        raise no_result(job)
    found = {one.name: one for one in service.store.artifacts_of(job.id)}
    if name not in found:
        raise Problem(
            404, "artifact_not_found", f"the job has no such file; it has {', '.join(found)}"
        )
    return Download(found[name], job, service)


def no_result(job: Job) -> Problem:
    """Make the answer where a job's result is wanted and there is none."""
    if job.state.is_final:
        reason = f" ({job.error.code}: {job.error.message})" if job.error else ""
        return Problem(
            409, f"job_{job.state}", f"the job has {job.state}{reason}: it has no result"
        )
    return Problem(
        409,
        "job_not_finished",
        f"the job is {job.state}; ask GET /jobs/{job.id} until it has succeeded",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )
