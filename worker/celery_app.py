"""Celery entry module, `celery --app worker.celery_app worker`: the settings end here."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import worker_shutting_down

from worker.broker import create_celery_app, worker_name
from worker.celery_logging import configure_celery_logging
from worker.contract.database import open_database
from worker.contract.job_claims import JobClaims
from worker.contract.settings import Settings
from worker.presence import Presence

# Celery warns before it asks for this.
configure_celery_logging()
app = create_celery_app(Settings().broker)
app.steps["worker"].add(Presence)


@worker_shutting_down.connect
def _hand_back(**_: Any) -> None:
    """Queue the current job again: its child finds its claim lost, and the worker can end."""
    settings = Settings()
    claims = JobClaims(open_database(settings.database), lease_seconds=settings.lease_seconds)
    claims.hand_back(worker_name(os.getpid()))
