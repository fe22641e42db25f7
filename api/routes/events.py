"""What happens to a job, as a page or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, format_sse_event

from api.dependencies import JobDependency, Service, ServiceDependency
from api.schemas import EventPage, EventView
from worker.contract.job import Event, Job, JobState
from worker.contract.job_store import MAX_EVENTS

KEEP_ALIVE_SECONDS = 15.0
"""A silent stream says so this often, or proxies would close it."""

RECONNECT_MILLISECONDS = 2000
"""When a client comes back whose connection broke."""

MAX_NUMBER = 2**53
_STREAM = "text/event-stream"
_FINAL = frozenset(str(state) for state in JobState if state.is_final)

router = APIRouter(prefix="/jobs", tags=["jobs"])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {_STREAM: {"schema": {"type": "string"}}}},
    204: {"description": "The job has ended, and every event was seen: do not come back."},
}


@router.get(
    "/{job_id}/events",
    operation_id="list_events",
    summary="What happened to a job",
    response_model=EventPage,
    responses=_RESPONSES,
)
async def list_events(
    job: JobDependency,
    service: ServiceDependency,
    request: Request,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_NUMBER, description="Number of the last event seen.")
    ] = None,
    last_event_id: Annotated[
        str, Header(pattern="^[0-9]{0,15}$", description="What a stream ended with.")
    ] = "",
) -> EventPage | Response:
    """Return events in order; with `Accept: text/event-stream`, go on until the job ends.

    A page holds at most 1,000 events; the next one begins after its last number. A stream sends
    each event under its kind, with its number as id: a client that comes back with `Last-Event-ID`
    misses nothing.
    """
    seen = int(last_event_id or 0) if after is None else after
    if _STREAM in request.headers.get("accept", "") and request.method != "HEAD":
        if job.state.is_final and seen >= job.revision:
            return Response(status_code=204)
        return EventSourceResponse(
            _stream(job, seen, service),
            # nginx would hold events back.
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    found = await run_in_threadpool(service.store.events_of, job.id, after=seen)
    return EventPage(events=[EventView.of(event) for event in found])


async def _stream(job: Job, seen: int, service: Service) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RECONNECT_MILLISECONDS)
    with service.watcher.watching(job.id) as bell:
        while True:
            bell.clear()  # before the look, or what comes after it would be missed
            found = await run_in_threadpool(service.store.events_of, job.id, after=seen)
            for event in found:
                seen = event.number
                yield _formatted(event)
            if found and found[-1].kind in _FINAL:
                return
            if len(found) == MAX_EVENTS:
                continue
            try:
                await asyncio.wait_for(bell.wait(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="waiting")
            if not await run_in_threadpool(service.store.revisions_of, [job.id]):
                return  # it was deleted


def _formatted(event: Event) -> bytes:
    data = EventView.of(event).model_dump_json()
    return format_sse_event(data_str=data, event=event.kind, id=str(event.number))
