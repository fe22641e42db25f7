"""The application: `uvicorn --factory api.app:create_app_from_environment`."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from api.dependencies import Service
from api.job_watcher import JobWatcher
from api.problems import PROBLEM_TYPE, add_problem_handlers
from api.routes import convert, events, health, job_control, jobs, uploads, zoo
from api.schemas import ProblemView
from worker.contract.database import open_database
from worker.contract.file_store import FileStore
from worker.contract.job_store import JobStore
from worker.contract.settings import Settings
from worker.contract.upload_store import UploadStore


def create_app(settings: Settings) -> FastAPI:
    """Return the application, connected to the job record and the file store.

    Args:
        settings: where they are.
    """
    app = FastAPI(
        title="Momentum Zoo",
        version=version("momentum-zoo"),
        summary="Converts pretrained residual networks to Momentum ResNets.",
        responses={
            "default": {
                "description": "A problem",
                "model": ProblemView,
                "content": {PROBLEM_TYPE: {}},
            }
        },
    )
    files = FileStore(settings.data_folder)
    files.clear_temporary()
    engine = open_database(settings.database)
    store = JobStore(engine)
    app.state.service = Service(
        settings=settings,
        store=store,
        files=files,
        uploads=UploadStore(engine, files, keep_seconds=settings.upload_seconds),
        watcher=JobWatcher(store),
    )
    add_problem_handlers(app)
    for each in (convert, uploads, jobs, events, job_control, zoo, health):
        app.include_router(each.router)
    return app


def create_app_from_environment() -> FastAPI:
    """Return the application with the settings of the environment."""
    return create_app(Settings())
