"""What a job's worker said while it worked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse

from api.dependencies import JobDependency, ServiceDependency
from api.negotiation import preferred
from api.place import place
from api.polling import RETRY_SECONDS
from api.schemas.logs import LogLevel, LogPage, text_of
from worker.contract.job_logs import MAX_LISTED

MAX_NUMBER = 2**31 - 1
_FORMS = ("application/json", "text/plain")
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/logs",
    operation_id="list_logs",
    summary="What a job's worker said",
    response_model=LogPage,
    responses=_RESPONSES,
)
def list_logs(
    job: JobDependency,
    service: ServiceDependency,
    request: Request,
    after: Annotated[
        int, Query(ge=0, le=MAX_NUMBER, description="Number of the last line seen.")
    ] = 0,
    level: Annotated[LogLevel, Query(description="At least this.")] = LogLevel.INFO,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = MAX_LISTED,
    accept: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """Return lines in order, as JSON or, where `Accept` likes `text/plain` better, as text.

    To follow a job that runs, ask again with `after` set to the last number, or for what the header
    `Link` names as next; lines come within a second or two.
    """
    found = service.logs.lines_of(job.id, after=after, level=level.number, limit=limit)
    last = found[-1].number if found else after
    headers = {
        "Vary": "Accept",
        "Link": f"<{place(request, f'/jobs/{job.id}/logs')}?after={last}&level={level}>; "
        'rel="next"',
    }
    if not job.state.is_final:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if preferred(accept, _FORMS) == "text/plain":
        return PlainTextResponse(text_of(found), headers=headers)
    page = LogPage.of(found).model_dump_json()
    return Response(page, media_type=_FORMS[0], headers=headers)
