"""A worker shows that it is there, for as long as its main process lives, and rests when told to.

The main process does it, not its children: a worker that waits for a job is there, too. What is
done about draining here only keeps messages away; that no job is taken is decided by the claim.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from celery import bootsteps
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from worker.broker import worker_name
from worker.contract.database import open_database
from worker.contract.messages import CONVERT_QUEUE, queue_of
from worker.contract.settings import Settings
from worker.contract.worker_store import Device, WorkerStore, kind_of

BEAT_SECONDS = 2.0
DESCRIBE_SECONDS, MAX_DESCRIPTIONS = 0.5, 120
"""How often, and until when, a child tries to describe its device."""

DESCRIBE_AGAIN_SECONDS = (0.0, 5.0, 30.0)

LOOK_SECONDS = 15.0
"""How often a child looks whether anything has changed, such as its data sets."""

logger = logging.getLogger(__name__)


class Presence(bootsteps.StartStopStep):
    """Celery's hook: it starts before the worker takes messages, and stops with it."""

    def __init__(self, parent: Any, **_: Any) -> None:
        """Prepare; Celery makes one for each worker."""
        super().__init__(parent)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        """Show the worker from now on."""
        queues = sorted(parent.app.amqp.queues.consume_from)
        self._thread = threading.Thread(
            target=self._live, args=(parent, queues), name="presence", daemon=True
        )
        self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002 (Celery's signature)
        """Show it no longer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    terminate = stop

    def _live(self, worker: Any, queues: list[str]) -> None:
        entry, is_failing, rests = _Entry(worker_name(os.getpid()), queues), False, False
        heard = list(queues)
        while True:
            try:
                if self._stopped.is_set():
                    entry.remove()
                elif entry.beat() != rests:
                    rests = not rests
                    logger.warning("this worker %s", "takes no new job" if rests else "takes jobs")
                    _listen(worker.consumer, heard, wanted=not rests)
                # Known once the process that computes has found it.
                if (lane := entry.lane) is not None and lane not in heard:
                    heard.append(lane)
                    if not rests:
                        _listen(worker.consumer, [lane], wanted=True)
            except SQLAlchemyError as error:
                if not is_failing:
                    logger.warning("this worker looks silent: no record answers (%s)", error)
                is_failing = True
            else:
                is_failing = False
            if self._stopped.is_set():
                return
            self._stopped.wait(BEAT_SECONDS)


class _Entry:
    """The worker's row in the record."""

    def __init__(self, name: str, queues: list[str]) -> None:
        self._name = name
        self._queues = queues
        self._workers: WorkerStore | None = None
        self._device: Device | None = None

    def beat(self) -> bool:
        """Say that the worker lives; return whether it is to take no new job."""
        if self._workers is None:
            workers = WorkerStore(open_database(Settings().database))
            self._announce(workers)
            self._workers = workers
        known = self._workers.beat(self._name)
        if known is None:  # it was silent for so long that it was forgotten
            self._announce(self._workers)
            return False
        self._device = known.device
        return known.is_draining

    @property
    def lane(self) -> str | None:
        """The queue of jobs for this worker's kind of device alone, if it takes jobs."""
        if self._device is None or CONVERT_QUEUE not in self._queues:
            return None
        return queue_of(kind_of(self._device.name))

    def remove(self) -> None:
        if self._workers is not None:
            self._workers.leave(self._name)

    def _announce(self, workers: WorkerStore) -> None:
        workers.announce(
            self._name,
            queues=self._queues,
            version=version("momentum-zoo"),
            torch_version=version("torch"),
        )
        if self._device is not None:
            workers.describe(self._name, self._device)


def _listen(consumer: Any, queues: list[str], *, wanted: bool) -> None:
    """Take messages of the queues, or none; in the consumer's own thread."""
    change = consumer.add_task_queue if wanted else consumer.cancel_task_queue
    for queue in queues:
        consumer.call_soon(change, queue)


def keep_described(engine: Engine, look: Callable[[], Device]) -> None:
    """Say what this child's worker computes on, once its main process has announced it.

    Args:
        engine: the record.
        look: returns it; asked again and again, and said again where it has changed.
    """
    name, workers = worker_name(os.getppid()), WorkerStore(engine)

    def tell(device: Device) -> bool:
        try:
            return workers.describe(name, device)
        except SQLAlchemyError as error:
            logger.warning("this worker's device is not shown yet: %s", error)
            return False

    def describe() -> None:
        device, num_told = look(), 0
        for _ in range(MAX_DESCRIPTIONS):
            num_told += tell(device)
            if num_told == len(DESCRIBE_AGAIN_SECONDS):
                break
            # Once more later: the main process may begin its row anew at its start.
            time.sleep(DESCRIBE_AGAIN_SECONDS[num_told] if num_told else DESCRIBE_SECONDS)
        while True:
            time.sleep(LOOK_SECONDS)
            now = look()
            if now != device and tell(now):
                device = now

    threading.Thread(target=describe, name="describe", daemon=True).start()
