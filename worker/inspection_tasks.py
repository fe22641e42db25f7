"""Celery's task that answers what would become of a network; it needs neither weights nor a GPU."""

from __future__ import annotations

import logging
import os
import threading
from functools import cache
from typing import Any

from celery import shared_task
from celery.signals import worker_process_init
from sqlalchemy import Engine

from momentum_core.errors import MomentumError
from worker.contract.database import open_database
from worker.contract.inspection import InspectionStore
from worker.contract.job import JobError
from worker.contract.lifeline import die_with_parent
from worker.contract.messages import INSPECT_TASK
from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings
from worker.presence import keep_described

LONGEST_SECONDS = 50
"""After this long a child is replaced; the relay sends its question again."""

logger = logging.getLogger(__name__)


@shared_task(name=INSPECT_TASK, time_limit=LONGEST_SECONDS)
def inspect(inspection_id: str) -> None:
    """Answer one question."""
    _get_ready()
    from worker.inspection import answer_any
    from worker.names import hub_of

    store = InspectionStore(_engine())
    question = store.question(inspection_id)
    if question is None:
        return  # a message too many
    try:
        answer = answer_any(question, hub_of(Settings()))
    except MomentumError as error:
        store.refuse(inspection_id, JobError(code=error.code, message=str(error)))
    except Exception as error:
        logger.exception("inspection %s failed", inspection_id)
        # Its text may name files and hosts: that is for the operator's log.
        message = (
            f"an error of the service ({type(error).__name__}); the inspection worker's log has it "
            "under the inspection's id"
        )
        store.refuse(inspection_id, JobError(code="internal_error", message=message))
    else:
        store.answer(inspection_id, answer)


@cache
def _engine() -> Engine:
    return open_database(Settings().database)


@worker_process_init.connect
def _prepare_child(**_: Any) -> None:
    die_with_parent(os.getppid())
    settings = Settings()
    configure_logging(settings.log_format)
    # Not at once: where everything starts at the same moment, the worker that converts goes first.
    timer = threading.Timer(settings.prepare_seconds, _get_ready)
    timer.daemon = True
    timer.start()


@cache
def _get_ready() -> None:
    """Import torch, and what else a question needs."""
    import torch

    import worker.inspection  # noqa: F401
    from worker.device import device_facts
    from worker.names import register_architectures

    register_architectures(Settings())
    device = device_facts(torch.device("cpu"))
    keep_described(_engine(), lambda: device)
