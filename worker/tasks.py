"""Celery's task: takes a job's id, calls `run_job`, and holds what a child reuses between jobs."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING

from celery import shared_task

from worker.broker import worker_name
from worker.contract.messages import CONVERT_TASK
from worker.contract.settings import Settings

# torch is imported in the children only: their parent stays small and starts at once.
if TYPE_CHECKING:
    from worker.run_job import Services


@shared_task(name=CONVERT_TASK)
def convert(job_id: str) -> None:
    """Run one conversion job; the logic is in `run_job`."""
    from worker.run_job import run_job

    run_job(job_id, prepare())


@cache
def prepare() -> Services:
    """Return this process's connections; made, and torch imported, before a job arrives."""
    from worker.run_job import create_services

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return create_services(Settings(), worker=worker_name(os.getppid()))
