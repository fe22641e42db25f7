"""Celery entry module, `celery --app worker.celery_app worker`: the settings end here."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from celery.signals import worker_process_init, worker_shutting_down

from momentum_core.errors import MomentumError
from worker.broker import create_celery_app, worker_name
from worker.contract.database import open_database
from worker.contract.job_claims import JobClaims
from worker.contract.lifeline import die_with_parent
from worker.contract.settings import Settings

logger = logging.getLogger(__name__)

app = create_celery_app(Settings().broker)


@worker_process_init.connect
def _prepare_child(**_: Any) -> None:
    die_with_parent(os.getppid())
    from worker.tasks import prepare

    try:
        prepare()
    except MomentumError as error:
        # Celery would go on without it, and every job would wait for ever.
        logger.critical("the worker cannot work: %s", error)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


@worker_shutting_down.connect
def _hand_back(**_: Any) -> None:
    """Queue the current job again: its child finds its claim lost, and the worker can end."""
    settings = Settings()
    claims = JobClaims(open_database(settings.database), lease_seconds=settings.lease_seconds)
    claims.hand_back(worker_name(os.getpid()))
