"""Celery's entry module: `celery --app worker.celery_app worker`. The worker's settings end here.

The broker is only a bell: a message carries a job's id, and the database decides whether there is
anything to do. So a message that is lost, late or repeated does no harm.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_shutting_down
from kombu import Queue

from momentum_core.errors import MomentumError
from worker.contract.database import open_database
from worker.contract.job_claims import JobClaims
from worker.contract.lifeline import die_with_parent
from worker.contract.messages import CONVERT_QUEUE
from worker.contract.settings import Settings

logger = logging.getLogger(__name__)

LONGEST_JOB_SECONDS = 24 * 3600
"""A message that is not acknowledged by then is delivered again."""

JOBS_PER_CHILD = 50
"""Jobs after which a child is replaced, so that no leak grows for ever."""


def create_celery_app(broker_url: str) -> Celery:
    """Return the Celery application; nothing is connected yet.

    Args:
        broker_url: Redis or Valkey.
    """
    app = Celery("momentum", broker=broker_url)
    app.conf.update(
        imports=["worker.tasks"],
        task_queues=[Queue(CONVERT_QUEUE)],
        task_default_queue=CONVERT_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # One message at a time: the next one is left to a worker that is free.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        # CUDA does not survive a fork.
        worker_pool_start_method="spawn",
        # A child imports torch before it is ready; at Celery's 4 s it would be killed in a loop.
        worker_proc_alive_timeout=60,
        worker_max_tasks_per_child=JOBS_PER_CHILD,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": LONGEST_JOB_SECONDS,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "health_check_interval": 25,
        },
    )
    return app


def worker_name(process_id: int) -> str:
    """Return the name under which the children of a worker process claim jobs."""
    return f"{socket.gethostname()}:{process_id}"


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
