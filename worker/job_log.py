"""The job's own log: what this package says while a job runs is kept for the job's user, too.

Messages only, and only ours: tracebacks and what libraries say may name files and hosts, so those
stay in the operator's log.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from worker.contract.job import Claim
from worker.contract.job_logs import MAX_MESSAGE_CHARACTERS, MAX_NAME_CHARACTERS, JobLogs, Said

WRITE_SECONDS = 1.0
"""Lines are written this often, all that have come meanwhile together."""

MAX_WAITING = 2000
"""Lines that wait for a record that does not answer; further ones are left out."""

_LOGGERS = ("momentum_core", "worker")
_OF_THE_PROCESS = ("worker.tasks", "worker.presence", __name__)
"""Not of a job, whichever runs at the moment."""

logger = logging.getLogger(__name__)


class JobLog(logging.Handler):
    """Keeps what is said while the context lasts; losing a line never harms the job."""

    def __init__(self, logs: JobLogs, claim: Claim) -> None:
        """Write to the log of a claimed job."""
        super().__init__(logging.INFO)
        self._sources = [logging.getLogger(name) for name in _LOGGERS]
        self._old_levels: list[int] = []
        self._logs = logs
        self._claim = claim
        self._waiting: list[tuple[float, Said]] = []
        self._guard = threading.Lock()
        self._is_full = False
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="job-log", daemon=True)

    def __enter__(self) -> Self:
        for each in self._sources:
            self._old_levels.append(each.level)
            if not each.isEnabledFor(self.level):
                each.setLevel(self.level)
            each.addHandler(self)
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, level in zip(self._sources, self._old_levels, strict=True):
            each.removeHandler(self)
            each.setLevel(level)
        self._ended.set()
        self._writer.join()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; it is written within a second."""
        if record.name not in _OF_THE_PROCESS:
            self._take(record.levelno, record.name, record.getMessage())

    def _take(self, level: int, name: str, message: str) -> None:
        line = Said(
            seconds_ago=0.0, level=level, logger=name[:MAX_NAME_CHARACTERS], message=_clean(message)
        )
        with self._guard:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((time.monotonic(), line))

    def _write_on(self) -> None:
        while not self._ended.wait(WRITE_SECONDS):
            self._write()
        self._write()
        if self._waiting:
            logger.warning("the last lines of the log of job %s are lost", self._claim.job_id)

    def _write(self) -> None:
        """Write what waits; if the record does not answer, it waits on."""
        with self._guard:
            taken, self._waiting = self._waiting, []
        if not taken:
            return
        now, claim = time.monotonic(), self._claim
        lines = [replace(line, seconds_ago=now - at) for at, line in taken]
        try:
            num_lost = self._logs.append(claim.job_id, lines, attempt=claim.attempt)
        except SQLAlchemyError as error:
            # A late worker may have written at the same moment; or nobody can ask for the job.
            if not isinstance(error, IntegrityError) or self._logs.has_job(claim.job_id):
                with self._guard:
                    self._waiting = taken + self._waiting
            return
        if num_lost and not self._is_full:
            self._is_full = True
            self._take(logging.WARNING, __name__, "the log is full: only warnings follow")


def _clean(message: str) -> str:
    """Cut a message, and take out what a terminal would obey: names in it may be a user's."""
    cut = message[:MAX_MESSAGE_CHARACTERS]
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in cut
    )
