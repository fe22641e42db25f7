"""What happens to a job, as a page or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event

from api.dependencies import ID, CallerDependency, Service, ServiceDependency, job_not_found
from api.event_streams import EventStream
from api.schemas.jobs import EventPage, EventView
from worker.contract.job import Event, JobState
from worker.contract.job_store import MAX_EVENTS

KEEP_ALIVE_SECONDS = 15.0
"""A silent stream says so this often, or proxies would close it."""

RECONNECT_MILLISECONDS = 2000
"""When a client comes back whose connection broke."""

MAX_NUMBER = 2**53
_STREAM = EventStream.media_type
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
    job_id: str,
    caller: CallerDependency,
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
    seen = max(after or 0, int(last_event_id or 0))
    try:
        if not ID.fullmatch(job_id):
            raise LookupError
        # No more of the job than this: a stream would hold on to it for as long as it is open.
        revision, state = await run_in_threadpool(service.store.look, job_id, tenant=caller.tenant)
    except LookupError:
        raise job_not_found() from None
    if _STREAM in request.headers.get("accept", "") and request.method != "HEAD":
        if state.is_final and seen >= revision:
            return Response(status_code=204)
        key_id = caller.key_id
        return EventStream(lambda client: _stream(job_id, seen, service, client, key_id))
    found = await run_in_threadpool(service.store.events_of, job_id, after=seen)
    return EventPage(events=[EventView.of(event) for event in found])


async def _stream(
    job_id: str, seen: int, service: Service, client: Request, key_id: str | None
) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RECONNECT_MILLISECONDS)
    with service.watcher.watching(job_id, key_id) as bell:
        while not await client.is_disconnected():
            bell.clear()  # before the look, or what comes after it would be missed
            found = await run_in_threadpool(service.store.events_of, job_id, after=seen)
            for event in found:
                seen = event.number
                yield _formatted(event)
            if found and found[-1].kind in _FINAL:
                return
            if len(found) == MAX_EVENTS:
                continue
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await bell.wait()
            except TimeoutError:
                yield format_sse_event(comment="waiting")
            if bell.is_barred:
                return  # who comes back is told why
            if not await run_in_threadpool(service.store.revisions_of, [job_id]):
                return  # it was deleted


def _formatted(event: Event) -> bytes:
    data = EventView.of(event).model_dump_json()
    return format_sse_event(data_str=data, event=event.kind, id=str(event.number))
