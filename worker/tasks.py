"""Celery's task: takes a job's id, calls `run_job`, and holds what a child reuses between jobs.

A child imports this module, not the entry module: what prepares a child is connected here.
"""

from __future__ import annotations

import logging
import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.signals import worker_process_init, worker_process_shutdown

from momentum_core.errors import MomentumError
from worker import celery_logging  # noqa: F401 (connects itself)
from worker.broker import worker_name
from worker.contract.lifeline import die_with_parent
from worker.contract.messages import CONVERT_TASK
from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings
from worker.contract.tracing import configure_tracing, end_tracing
from worker.presence import keep_described

# torch is imported in the children only: their parent stays small and starts at once.
if TYPE_CHECKING:
    from worker.run_job import Services

logger = logging.getLogger(__name__)


@shared_task(name=CONVERT_TASK)
def convert(job_id: str) -> None:
    """Run one conversion job; the logic is in `run_job`."""
    from worker.run_job import run_job

    run_job(job_id, prepare())


@cache
def prepare() -> Services:
    """Return this process's connections; made, and torch imported, before a job arrives."""
    from worker.run_job import create_services

    settings = Settings()
    configure_logging(settings.log_format)
    configure_tracing("worker")
    return create_services(settings, worker=worker_name(os.getppid()))


@worker_process_init.connect
def _prepare_child(**_: Any) -> None:
    die_with_parent(os.getppid())
    try:
        services = prepare()
    except MomentumError as error:
        # Celery would go on without it, and every job would wait for ever.
        logger.critical("the worker cannot work: %s", error)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)
    keep_described(services.claims.engine, lambda: services.device)


@worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    if prepare.cache_info().currsize:
        prepare().workplace.files.close()
    end_tracing()
