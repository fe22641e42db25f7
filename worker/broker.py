"""The Celery application: settings that keep jobs safe, and the name that a worker claims under.

The broker is only a bell: a message carries a job's id, and the database decides whether there is
anything to do. So a message that is lost, late or repeated does no harm.
"""

from __future__ import annotations

import socket

from celery import Celery
from kombu import Queue

from worker.contract.messages import CONVERT_QUEUE

LONGEST_JOB_SECONDS = 24 * 3600
"""A message that is not acknowledged by then is delivered again."""

JOBS_PER_CHILD = 50
"""Jobs after which a child is replaced, so that no leak grows for ever."""


def create_celery_app(
    broker_url: str, *, queue: str = CONVERT_QUEUE, tasks: str = "worker.tasks"
) -> Celery:
    """Return a Celery application; nothing is connected yet.

    Args:
        broker_url: Redis or Valkey.
        queue: that its workers listen to.
        tasks: the module that a worker's children import.
    """
    app = Celery("momentum", broker=broker_url)
    app.conf.update(
        imports=[tasks],
        task_queues=[Queue(queue)],
        task_default_queue=queue,
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
