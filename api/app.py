"""The application."""

from __future__ import annotations

import logging
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI

from api.audit_trail import AuditTrail
from api.dependencies import Service
from api.event_streams import EventStreams
from api.head_requests import answer_head
from api.headers import SecurityHeaders
from api.job_bodies import JobBodies
from api.job_looks import JobLooks
from api.job_polling import JobPolling
from api.job_watcher import JobWatcher
from api.known_keys import KnownKeys
from api.library_names import LibraryNames
from api.metrics import ServiceMetrics
from api.openapi import document_of
from api.problems import add_problem_handlers
from api.receive_deadline import ReceiveDeadline
from api.routes import (
    about,
    audit,
    convert,
    datasets,
    events,
    health,
    inspect,
    job_control,
    jobs,
    keys,
    logs,
    metrics,
    queues,
    resumable,
    uploads,
    webhooks,
    workers,
    zoo,
)
from api.schemas.service import ProblemView
from api.web import assets, session
from api.web import routes as web
from momentum_core.durable_files import new_file, write_all
from worker.contract.audit_log import AuditLog
from worker.contract.database import open_database
from worker.contract.inspection import InspectionStore
from worker.contract.job import DEFAULT_TENANT
from worker.contract.job_logs import JobLogs
from worker.contract.job_store import JobStore
from worker.contract.key_store import KeyStore
from worker.contract.partial_uploads import PartialUploads
from worker.contract.queue_store import QueueStore
from worker.contract.service_figures import ServiceFigures
from worker.contract.settings import Settings
from worker.contract.shared_file_store import open_file_store
from worker.contract.tracing import is_traced
from worker.contract.upload_store import UploadStore
from worker.contract.webhook_store import WebhookStore
from worker.contract.worker_store import WorkerStore

FIRST_KEY_FILE = "first-key"

INTAKE_THREADS = 16
"""Files and names that are looked into at once."""

# Of two routes that fit, the first one answers: HEAD of an upload is tus's.
_ROUTES = (
    convert,
    inspect,
    resumable,
    uploads,
    jobs,
    events,
    logs,
    job_control,
    webhooks,
    workers,
    queues,
    keys,
    audit,
    zoo,
    datasets,
    health,
    metrics,
    about,
    web,
    session,
    assets,
)

logger = logging.getLogger(__name__)


_UNTRACED = "/jobs/[0-9a-f]{32}$,/healthz$,/readyz$,/metrics$"
"""What is asked for again and again."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application, connected to the job record and the file store.

    Args:
        settings: where they are.
    """
    app = FastAPI(
        title="Momentum Zoo",
        version=version("momentum-zoo"),
        summary="Converts pretrained residual networks to Momentum ResNets.",
        # FastAPI's own pages load their scripts from elsewhere; ours does not (api/web).
        docs_url=None,
        redoc_url=None,
        # Names the form of problems in the document; which there are says api/openapi.py.
        responses={"default": {"model": ProblemView}},
    )
    files = open_file_store(settings)
    files.clear_temporary()
    engine = open_database(settings.database)
    store = JobStore(engine, keep_seconds=settings.job_seconds)
    key_store = KeyStore(engine)
    inspections = InspectionStore(engine)
    app.state.service = Service(
        settings=settings,
        store=store,
        bodies=JobBodies(store),
        looks=JobLooks(store),
        files=files,
        uploads=UploadStore(engine, files, keep_seconds=settings.upload_seconds),
        partial_uploads=PartialUploads(engine, files, keep_seconds=settings.upload_seconds),
        watcher=JobWatcher(store, key_store),
        keys=key_store,
        known_keys=KnownKeys(key_store),
        webhooks=WebhookStore(engine),
        inspections=inspections,
        names=LibraryNames(inspections, settings.inspect_seconds),
        intake_threads=CapacityLimiter(INTAKE_THREADS),
        logs=JobLogs(engine),
        audit=AuditLog(engine),
        workers=WorkerStore(engine),
        queues=QueueStore(engine),
        metrics=ServiceMetrics(
            ServiceFigures(engine), files, reserve_bytes=settings.min_free_bytes
        ),
    )
    if settings.require_keys:
        _make_first_key(app.state.service)
    add_problem_handlers(app)
    for each in _ROUTES:
        answer_head(each.router)
        app.include_router(each.router)
    # The last one is the outermost.
    app.add_middleware(
        ReceiveDeadline,
        seconds=settings.receive_seconds,
        min_bytes_per_second=settings.min_bytes_per_second,
    )
    app.add_middleware(JobPolling, service=app.state.service)
    app.add_middleware(EventStreams)
    app.add_middleware(AuditTrail, log=app.state.service.audit)
    app.add_middleware(SecurityHeaders)
    if is_traced():
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app, excluded_urls=_UNTRACED, exclude_spans=["receive", "send"]
        )
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    return app


def _make_first_key(service: Service) -> None:
    """Make an admin key for whoever runs a service that has none, in a file for their eyes only."""
    path = service.settings.data_folder / FIRST_KEY_FILE

    def keep(secret: str) -> None:
        with new_file(path) as descriptor:  # made for its owner only
            write_all(descriptor, f"{secret}\n".encode())

    if service.keys.create_first(tenant=DEFAULT_TENANT, keep=keep):
        logger.warning("a first key, with the scope admin, is in %s", path)
