"""What Celery says, and a worker's children: as all processes of the service do."""

from __future__ import annotations

from typing import Any

from celery.signals import setup_logging

from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings


@setup_logging.connect
def configure_celery_logging(**_: Any) -> None:
    """Replace Celery's own handlers; it makes none where this is connected."""
    configure_logging(Settings().log_format)
