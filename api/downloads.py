"""A job's files as answers: ranges, entity tags, digests."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from api.conditional import is_unchanged
from api.dependencies import Service
from api.openapi import problems
from api.polling import RETRY_SECONDS
from api.problems import Problem, answer_problem
from worker.contract.job import Artifact, Job, JobState

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
)


class Download(FileResponse):
    """A file that never changes under its digest, whole or in part (RFC 9110, RFC 9530)."""

    def __init__(self, artifact: Artifact, job: Job, service: Service) -> None:
        """Answer with one of a job's files."""
        digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
        super().__init__(
            service.files.path_of(artifact.sha256),
            media_type=artifact.media_type,
            filename=f"{job.id[:8]}-{artifact.name}",
            content_disposition_type="inline" if artifact.media_type in _SHOWN else "attachment",
            headers={
                "ETag": f'"{artifact.sha256}"',
                "Repr-Digest": f"sha-256=:{digest}:",
                "Cache-Control": "private, no-cache",
            }
            | (_PAGE_HEADERS if artifact.media_type == "text/html" else {}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, a part of it, or that the client has it already."""
        etag = self.headers["etag"]
        if is_unchanged(etag, Headers(scope=scope).get("if-none-match")):
            kept = {name: self.headers[name] for name in ("etag", "repr-digest", "cache-control")}
            await Response(status_code=304, headers=kept)(scope, receive, send)
            return
        refused: Mapping[str, str] | None = None

        async def watch(message: Message) -> None:
            # What the base class refuses, it refuses in plain text.
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = dict(Headers(raw=message["headers"]))
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, watch)
        if refused is not None:
            await _range_refused(refused)(scope, receive, send)


def _range_refused(headers: Mapping[str, str]) -> Response:
    size = headers.get("content-range")
    if size is None:
        return answer_problem(
            Problem(400, "malformed_range", "the header Range is malformed; send bytes=FIRST-LAST")
        )
    return answer_problem(
        Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            f"the file has {size.rpartition('/')[2]} bytes; ask for a range inside",
            headers={"Content-Range": size},
        )
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
