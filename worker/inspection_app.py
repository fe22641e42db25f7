"""Celery entry module of the inspection worker: `celery --app worker.inspection_app worker`."""

from __future__ import annotations

from worker.broker import create_celery_app
from worker.celery_logging import configure_celery_logging
from worker.contract.messages import INSPECT_QUEUE
from worker.contract.settings import Settings
from worker.presence import Presence

# Celery warns before it asks for this.
configure_celery_logging()
app = create_celery_app(Settings().broker, queue=INSPECT_QUEUE, tasks="worker.inspection_tasks")
app.steps["worker"].add(Presence)
