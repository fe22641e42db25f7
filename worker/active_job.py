"""A job while a worker has it: its lease is kept alive, its progress recorded, its end obeyed."""

from __future__ import annotations

import _thread
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from worker.contract.job import Claim, Stage
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims

HEARTBEATS_PER_LEASE = 5
PROGRESS_SECONDS = 1.0
"""Progress is recorded at most this often."""

SAY_SECONDS = 10.0
"""Figures go to the job's log at most this often; its events have all of them."""

CANCEL_SECONDS = 0.5
"""Time between two looks whether the job is still wanted."""

PATIENCE_SECONDS = 30.0
"""Time in which a job that knows it is to stop may save what it has come to, undisturbed."""

_INTERRUPTION = signal.SIGUSR2
"""Never really sent: the name under which Python calls the main thread's handler."""

_SHARES: dict[Stage, tuple[float, float]] = {
    Stage.LOADING: (0.0, 0.03),
    Stage.PLANNING: (0.03, 0.05),
    Stage.CONVERTING: (0.05, 0.07),
    Stage.MEASURING: (0.07, 0.15),
    Stage.EVALUATING: (0.15, 0.3),
    Stage.REFINING: (0.3, 0.9),
    Stage.PACKAGING: (0.95, 1.0),
}
"""Share of the job's progress at the start and end of a stage."""

logger = logging.getLogger(__name__)


class ActiveJob:
    """Keeps a claim while the context lasts.

    A database that does not answer never ends a job by itself: progress is lost then, and the job
    goes on for as long as its lease would have lasted.

    A job that was cancelled, or that went to somebody else, is stopped wherever it is: the next
    `check` raises, and if none comes the main thread is interrupted at its next instruction.
    """

    def __init__(self, claims: JobClaims, claim: Claim, *, lease_seconds: float) -> None:
        self.claim = claim
        self._claims = claims
        self._lease_seconds = lease_seconds
        self._stage: Stage | None = None
        self._progress = 0.0
        self._recorded_at = 0.0
        self._said_at = -math.inf
        self._ended = threading.Event()
        self._stop: type[Exception] | None = None
        self._told_at = -math.inf
        self._old_handler: Any = None
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(_INTERRUPTION, self._interrupt)
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._heart.join()
        if self._old_handler is not None:
            signal.signal(_INTERRUPTION, self._old_handler)

    def enter(self, stage: Stage) -> None:
        """Begin a stage; progress never falls.

        Raises:
            ClaimLostError: the job is somebody else's.
            JobCancelledError: nobody wants it any more.
        """
        self.check()
        logger.info("stage %s", stage)
        self._stage = stage
        self._advance(0.0)
        self._record(lambda: self._claims.enter_stage(self.claim, stage, progress=self._progress))

    def advance(self, share: float, **figures: Any) -> None:
        """Say how far the stage has come, 0 to 1; recorded at most once a second.

        Raises:
            ClaimLostError: the job is somebody else's.
            JobCancelledError: nobody wants it any more.
        """
        self.check()
        self._advance(share)
        now = time.monotonic()
        if now - self._recorded_at >= PROGRESS_SECONDS:
            self._recorded_at = now
            data = {"stage": self._stage, **figures}
            self._say(now, figures)
            self._record(
                lambda: self._claims.record_progress(self.claim, progress=self._progress, data=data)
            )

    def _say(self, now: float, figures: Mapping[str, Any]) -> None:
        if figures and now - self._said_at >= SAY_SECONDS:
            self._said_at = now
            said = (_figure(name, value) for name, value in figures.items())
            logger.info("%s: %s", self._stage, ", ".join(filter(None, said)))

    def check(self) -> None:
        """Stop here if the job is somebody else's, or nobody's.

        Raises:
            ClaimLostError: it is somebody else's.
            JobCancelledError: nobody wants it any more.
        """
        if self._stop is not None:
            self._told_at = time.monotonic()
            raise self._stop

    def _advance(self, share: float) -> None:
        assert self._stage is not None, "enter a stage first"
        start, end = _SHARES[self._stage]
        self._progress = max(self._progress, start + min(share, 1.0) * (end - start))

    def _record(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SQLAlchemyError:
            logger.warning("progress of job %s not recorded", self.claim.job_id, exc_info=True)
        except (ClaimLostError, JobCancelledError) as error:
            self._stop = type(error)
            self.check()

    def _beat(self) -> None:
        held_until = time.monotonic() + self._lease_seconds
        interval = self._lease_seconds / HEARTBEATS_PER_LEASE
        renew_at = time.monotonic() + interval
        while not self._ended.wait(min(CANCEL_SECONDS, interval)):
            if self._stop is not None:
                # It is in a stage that does not look, or in a library that took no notice.
                if self._old_handler is not None and not self._is_stopping:
                    _thread.interrupt_main(_INTERRUPTION)
                continue
            asked_at = time.monotonic()
            try:
                if self._claims.is_cancel_requested(self.claim):
                    self._stop = JobCancelledError
                if asked_at < renew_at:
                    continue
                renew_at = asked_at + interval
                held = self._claims.renew(self.claim)
            except SQLAlchemyError:
                logger.warning("lease of job %s not renewed", self.claim.job_id, exc_info=True)
                held = asked_at < held_until
            else:
                held_until = asked_at + self._lease_seconds
            if not held:
                self._stop = ClaimLostError

    @property
    def _is_stopping(self) -> bool:
        return time.monotonic() - self._told_at < PATIENCE_SECONDS

    def _interrupt(self, *_: Any) -> None:
        """Raise in the main thread, unless the job has ended meanwhile or is about to."""
        if not self._ended.is_set() and not self._is_stopping:
            self.check()


def _figure(name: str, value: Any) -> str | None:
    if isinstance(value, float):
        return f"{name} {value:.5g}"
    return f"{name} {value}" if isinstance(value, int | str) else None
