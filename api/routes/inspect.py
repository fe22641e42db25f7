"""POST /inspect: what would happen."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.content_digest import CONTENT_DIGEST_PARAMETER
from api.dependencies import ID, Service, ServiceDependency, TenantDependency
from api.intake_threads import in_intake
from api.openapi import problems
from api.place import place
from api.polling import RETRY_SECONDS
from api.problems import Problem
from api.quota import check_inspections
from api.received_request import BODY, BODY_CODES, received_request
from api.room import check_room, stated_length
from api.schemas.inspections import InspectionView
from api.submission import Examined, examine
from worker.contract.inspection import (
    FIRST_LOOK_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Question,
    StepSpeed,
)
from worker.contract.intake import DatasetFacts
from worker.contract.job import JobState
from worker.contract.job_store import JobStore
from worker.contract.request import ConvertRequest

MEASURED_JOBS = 50
"""Jobs among which those with the same architecture say what a step takes."""

REFINED_JOBS = 3
"""The newest of these say how fast refinement goes."""

router = APIRouter(tags=["conversion"])


@router.post(
    "/inspect",
    operation_id="inspect",
    summary="Ask what a conversion would do",
    status_code=200,
    responses={
        202: {"model": InspectionView, "description": "It takes longer: follow `Location`."},
        **problems(*BODY_CODES, "too_many_inspections"),
    },
    openapi_extra={"requestBody": BODY, "parameters": [CONTENT_DIGEST_PARAMETER]},
)
async def inspect(
    request: Request, response: Response, service: ServiceDependency, tenant: TenantDependency
) -> InspectionView:
    """Say what `POST /convert` would do with the same body; nothing of it is kept.

    Files are examined as for a job, and refused with the same codes. The answer comes within ten
    seconds, or else later at `Location` (202). To send a large file only once, send it ahead with
    `POST /uploads` and name it here and there.
    """
    check_room(stated_length(request), service)
    await run_in_threadpool(check_inspections, service, tenant)
    async with received_request(request, service, tenant) as (wanted, files):
        examined = await in_intake(service, _examine, wanted, files, service, tenant)
    question = await run_in_threadpool(_question, examined, service.store, tenant)
    inspection_id = await run_in_threadpool(service.inspections.ask, question, tenant=tenant)
    view = await _answer(inspection_id, service, tenant)
    if view.state == "waiting":
        response.status_code = 202
        response.headers["Location"] = place(request, view.links["self"])
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return view


@router.get(
    "/inspections/{inspection_id}",
    operation_id="get_inspection",
    summary="Follow an inspection that took longer",
)
def get_inspection(
    inspection_id: str, service: ServiceDependency, tenant: TenantDependency, response: Response
) -> InspectionView:
    """Return an inspection of the last hour; ask again after `Retry-After` while it waits."""
    try:
        if not ID.fullmatch(inspection_id):
            raise LookupError
        view = InspectionView.of(service.inspections.get(inspection_id, tenant=tenant))
    except LookupError:
        raise Problem(
            404,
            "inspection_not_found",
            "there is no such inspection; they are kept for an hour: ask again with POST /inspect",
        ) from None
    if view.state == "waiting":
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return view


def _examine(
    request: ConvertRequest, files: dict[str, Path], service: Service, tenant: str
) -> Examined:
    return examine(
        request,
        checkpoint=files.get("checkpoint"),
        data=files.get("data"),
        names=service.names.of(tenant),
        workers=service.workers.all(),
        limits=service.settings.limits,
    )


def _question(examined: Examined, store: JobStore, tenant: str) -> Question:
    network = examined.network
    facts = None if examined.data is None else examined.data.facts
    assert facts is None or isinstance(facts, DatasetFacts)
    return Question(
        architecture=network.architecture,
        num_classes=network.num_classes,
        request=examined.request,
        num_train=facts.num_train if facts else None,
        num_test=facts.num_test if facts else None,
        speed=_measured_speed(network.architecture, store, tenant),
    )


def _measured_speed(architecture: str, store: JobStore, tenant: str) -> StepSpeed | None:
    """Return what the tenant's last jobs with an architecture have measured."""
    jobs = store.find(tenant=tenant, states=[JobState.SUCCEEDED], limit=MEASURED_JOBS)
    found = [
        (job.id, job.result)
        for job in jobs
        if job.result
        and job.result.get("architecture") == architecture
        and "seconds_per_image" in job.result
    ]
    same = [(job_id, one) for job_id, one in found if one["device"] == found[0][1]["device"]]
    if not same:
        return None
    return StepSpeed(
        **{
            model: statistics.median(one["seconds_per_image"][model] for _, one in same)
            for model in ("original", "momentum")
        },
        refining=_refining_seconds([job_id for job_id, _ in same[:REFINED_JOBS]], store),
        device=same[0][1]["device"],
        num_jobs=len(same),
    )


def _refining_seconds(job_ids: Sequence[str], store: JobStore) -> float | None:
    """Return the seconds per image of what jobs said of their refinement."""
    speeds = [
        event.data["images_per_second"]
        for job_id in job_ids
        for event in store.events_of(job_id)
        if event.data.get("images_per_second") and not event.data.get("network")
    ]
    return 1 / statistics.median(speeds) if speeds else None


async def _answer(inspection_id: str, service: Service, tenant: str) -> InspectionView:
    """Wait for the answer as long as the settings allow, without holding a thread."""
    until = time.monotonic() + service.settings.inspect_seconds
    pause = FIRST_LOOK_SECONDS
    while True:
        await asyncio.sleep(pause)
        found = await run_in_threadpool(service.inspections.get, inspection_id, tenant=tenant)
        if found.finished_at is not None or time.monotonic() >= until:
            return InspectionView.of(found)
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
