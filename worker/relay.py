"""`python -m worker.relay`: tells the workers of new jobs, and finds jobs that were lost.

It publishes what the outbox holds, queues jobs again whose worker fell silent, and repeats messages
that the broker lost. Beside it, a thread tells webhooks what they are to be told. Two relays do no
harm: every effect is decided in the database.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from celery import Celery
from kombu.exceptions import ChannelError, KombuError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from momentum_core.errors import MomentumError
from momentum_core.failpoints import reach
from worker.broker import create_celery_app
from worker.contract.collector import Collector
from worker.contract.database import open_database
from worker.contract.file_store import FileStore
from worker.contract.inspection import InspectionStore
from worker.contract.job_store import JobStore
from worker.contract.lease_watch import LeaseWatch
from worker.contract.messages import (
    CONVERT_TASK,
    INSPECT_QUEUE,
    INSPECT_TASK,
    queue_of,
)
from worker.contract.outbox import Outbox
from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings
from worker.contract.shared_file_store import open_file_store
from worker.contract.upload_store import UploadStore
from worker.contract.webhook_store import WebhookStore
from worker.webhooks import WebhookSender

POLL_SECONDS = 0.2
"""Time between two looks at the outbox."""

COLLECT_SECONDS = 600.0
"""Time between two looks for what is left over."""

LOST_AFTER_SECONDS = 5.0
"""A message sent this long ago, whose job still waits, may be lost."""

SPACE_TO_GO_ON_BYTES = 16 << 20
"""Free space, at least, with which jobs that found the disk full go on."""

logger = logging.getLogger(__name__)


class Relay:
    """Moves messages from the outbox to the broker, and sweeps."""

    def __init__(
        self,
        outbox: Outbox,
        inspections: InspectionStore,
        uploads: UploadStore,
        collector: Collector,
        leases: LeaseWatch,
        app: Celery,
        *,
        sweep_seconds: float,
        has_space: Callable[[], bool],
    ) -> None:
        """Sweep every `sweep_seconds`; `has_space` says whether the disk has room for jobs."""
        self._outbox = outbox
        self._leases = leases
        self._has_space = has_space
        self._inspections = inspections
        self._uploads = uploads
        self._collector = collector
        self._app = app
        self._sweep_seconds = sweep_seconds
        self._sweep_at = 0.0
        # Not at once: who started with the wrong record has time to see it.
        self._collect_at = time.monotonic() + COLLECT_SECONDS
        self._failing = False

    def run(self, stopped: threading.Event) -> None:
        """Work until `stopped` is set; neither broker, database nor object store can end it."""
        while not stopped.wait(POLL_SECONDS):
            with self._surviving():
                self.publish()
                if time.monotonic() >= self._sweep_at:
                    self._sweep_at = time.monotonic() + self._sweep_seconds
                    self.sweep()
                if time.monotonic() >= self._collect_at:
                    self._collect_at = time.monotonic() + COLLECT_SECONDS
                    if removed := self._collector.collect():
                        logger.info("%d files were of no job any more", removed)
                    if expired := self._collector.drop_expired():
                        logger.info("%d jobs have expired", expired)

    def publish(self) -> None:
        """Send what waits in the outbox; a message may be sent twice, never not at all."""
        for inspection_id in self._inspections.waiting():
            self._send(INSPECT_TASK, inspection_id, INSPECT_QUEUE)
            self._inspections.mark_sent(inspection_id)
        for message in self._outbox.waiting():
            reach("relay.unsent")
            self._send(CONVERT_TASK, message.job_id, queue_of(message.lane))
            reach("relay.sent")
            self._outbox.mark_sent(message)

    def _send(self, task: str, of: str, queue: str) -> None:
        self._app.send_task(task, args=[of], queue=queue, retry=False)

    def sweep(self) -> None:
        """Look for jobs without a living worker, paused queues, lost messages, expired uploads."""
        if changed := self._leases.requeue_expired():
            logger.warning("%d jobs had lost their worker", changed)
        if resumed := self._outbox.resume_with_space(has_space=self._has_space):
            logger.info("%d jobs go on: the disk has room again", resumed)
        if settled := self._outbox.settle_paused():
            logger.info("%d jobs were told that their queue is paused, or goes on", settled)
        if told := self._outbox.tell_without_worker():
            logger.warning("%d jobs wait for a kind of worker that is not there", told)
        lost = self._outbox.announce_again(
            num_at_broker=self._num_at_broker, older_than_seconds=LOST_AFTER_SECONDS
        )
        if lost:
            logger.warning("%d messages sent again", lost)
        self._inspections.sweep()
        # The last one: it needs the object store, if there is one.
        if dropped := self._uploads.drop_expired():
            logger.info("%d uploads have expired", dropped)

    def _num_at_broker(self, lane: str) -> int:
        with self._app.connection_or_acquire() as connection:
            try:
                declared = connection.default_channel.queue_declare(queue_of(lane), passive=True)
            except ChannelError:
                return 0  # the queue does not exist: it is empty
            return int(declared.message_count)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Log a failure once, and its end."""
        try:
            yield
        except (KombuError, RedisError, OSError, SQLAlchemyError, MomentumError) as error:
            if not self._failing:
                logger.warning("broker, database or object store do not answer: %s", error)
            self._failing = True
        else:
            if self._failing:
                logger.warning("broker and database answer again")
            self._failing = False


def _has_space(files: FileStore, settings: Settings) -> bool:
    """Whether jobs that wait for it may go on."""
    try:
        files.check()
    except MomentumError:
        return False
    reserve = max(settings.min_free_bytes, SPACE_TO_GO_ON_BYTES)
    return files.has_names() and files.free_bytes() >= reserve


def main() -> None:
    """Run a relay until SIGTERM or SIGINT."""
    settings, stopped = Settings(), threading.Event()
    configure_logging(settings.log_format)

    def stop(_: int, __: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    engine, files = open_database(settings.database), open_file_store(settings)
    relay = Relay(
        Outbox(engine),
        InspectionStore(engine),
        UploadStore(engine, files, keep_seconds=settings.upload_seconds),
        Collector(
            engine,
            files,
            keep_seconds=settings.job_seconds,
            audit_seconds=settings.audit_seconds,
        ),
        LeaseWatch(
            engine, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts
        ),
        create_celery_app(settings.broker),
        sweep_seconds=settings.sweep_seconds,
        has_space=partial(_has_space, files, settings),
    )
    sender = WebhookSender(WebhookStore(engine), JobStore(engine), networks=settings.networks)
    sending = threading.Thread(target=sender.run, args=(stopped,), name="webhooks")
    sending.start()
    try:
        relay.run(stopped)
    finally:
        # However it ends, the process does: its supervisor starts it again.
        stopped.set()
        sending.join()


if __name__ == "__main__":
    main()
