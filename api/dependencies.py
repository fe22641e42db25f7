"""What routes take as arguments: the parts of the service, and who asks."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.audit_trail import note_caller
from api.caller import Caller, identify
from api.job_bodies import JobBodies
from api.job_looks import JobLooks
from api.job_watcher import JobWatcher
from api.known_keys import KnownKeys
from api.library_names import LibraryNames
from api.metrics import ServiceMetrics
from api.problems import Problem
from worker.contract.audit_log import AuditLog
from worker.contract.file_store import FileStore
from worker.contract.inspection import InspectionStore
from worker.contract.job import Job
from worker.contract.job_logs import JobLogs
from worker.contract.job_store import JobStore
from worker.contract.key_store import KeyStore, Scope
from worker.contract.partial_uploads import PartialUploads
from worker.contract.queue_store import QueueStore
from worker.contract.settings import Settings
from worker.contract.upload_store import UploadStore
from worker.contract.webhook_store import WebhookStore
from worker.contract.worker_store import WorkerStore


@dataclass(frozen=True, slots=True)
class Service:
    """What the application was made of."""

    settings: Settings
    store: JobStore
    bodies: JobBodies
    looks: JobLooks
    files: FileStore
    uploads: UploadStore
    partial_uploads: PartialUploads
    watcher: JobWatcher
    keys: KeyStore
    known_keys: KnownKeys
    webhooks: WebhookStore
    inspections: InspectionStore
    names: LibraryNames
    intake_threads: CapacityLimiter
    logs: JobLogs
    audit: AuditLog
    workers: WorkerStore
    queues: QueueStore
    metrics: ServiceMetrics


# Asynchronous where there is nothing to wait for: FastAPI hands other functions to a thread.
async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ID = re.compile("[0-9a-f]{32}")
"""What the ids of jobs and uploads look like."""

ServiceDependency = Annotated[Service, Depends(_service)]


_bearer = HTTPBearer(
    auto_error=False,  # `identify` says it in our words; here for the OpenAPI document
    bearerFormat="mz_...",
    description="An API key. From this machine itself none is needed, unless the operator says so.",
)


async def identified(request: Request, service: Service) -> Caller:
    """Return who asks, noted for the audit log.

    Raises:
        Problem: nobody who is let in.
    """
    caller = await identify(request, service.known_keys, require_keys=service.settings.require_keys)
    note_caller(request, caller)
    return caller


async def _caller(
    request: Request,
    service: ServiceDependency,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Return who asks; looking takes another scope than changing."""
    caller = await identified(request, service)
    caller.needs(Scope.READ if request.method in ("GET", "HEAD") else Scope.WRITE)
    return caller


CallerDependency = Annotated[Caller, Depends(_caller)]


async def _admin(caller: CallerDependency) -> Caller:
    caller.needs(Scope.ADMIN)
    return caller


AdminDependency = Annotated[Caller, Depends(_admin)]


async def _scraper(
    request: Request,
    service: ServiceDependency,
    sent: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    """Let in whoever has the token for metrics, which is no key, or may do everything."""
    token = service.settings.metrics_token
    if sent is None or token is None or not _is_same(sent.credentials, token):
        (await identified(request, service)).needs(Scope.ADMIN)


def _is_same(sent: str, secret: str) -> bool:
    return hmac.compare_digest(sent.encode(), secret.encode())


ScraperDependency = Annotated[None, Depends(_scraper)]


async def _tenant(caller: CallerDependency) -> str:
    return caller.tenant


TenantDependency = Annotated[str, Depends(_tenant)]


def _job(job_id: str, service: ServiceDependency, tenant: TenantDependency) -> Job:
    try:
        if not ID.fullmatch(job_id):
            raise LookupError
        return service.store.get(job_id, tenant=tenant)
    except LookupError:
        raise job_not_found() from None


def job_not_found() -> Problem:
    """Make the answer to an id that is none of the tenant's."""
    return Problem(
        404, "job_not_found", "there is no such job; POST /convert answers with a job's id"
    )


JobDependency = Annotated[Job, Depends(_job)]
