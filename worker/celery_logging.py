"""What Celery says, and a worker's children: as all processes of the service do."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import celeryd_after_setup, setup_logging

from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings


@setup_logging.connect
def configure_celery_logging(**_: Any) -> None:
    """Replace Celery's own handlers; it makes none where this is connected."""
    configure_logging(Settings().log_format)


@celeryd_after_setup.connect
def _quiet_new_children(**_: Any) -> None:
    """Have children not say that they start, in a form of their own, before ours is there."""
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)
