"""A job while a worker has it: its lease is kept alive, its progress recorded, its end obeyed."""

from __future__ import annotations

import _thread
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from momentum_core.failpoints import reach
from worker.contract.job import Claim, Stage
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims
from worker.contract.tracing import span

HEARTBEATS_PER_LEASE = 5
PROGRESS_SECONDS = 1.0
"""Progress is recorded at most this often."""

SAY_SECONDS = 10.0
"""Figures go to the job's log at most this often; its events have all of them."""

CANCEL_SECONDS = 0.5
"""Time between two looks whether the job is still wanted."""

PATIENCE_SECONDS = 30.0
"""Time in which a job that knows it is to stop may save what it has come to, undisturbed."""

DEAF_SECONDS = 3.0
"""A cancelled job whose main thread does not listen for this long is in a library's own code, where
nothing interrupts it: its process ends."""

STALL_SECONDS = 3600.0
"""A job that says nothing for so long hangs."""

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
    `check` raises, and if none comes the main thread is interrupted at its next instruction. If
    there comes none, either, or the job hangs, its process ends; another takes its place.
    """

    def __init__(
        self,
        claims: JobClaims,
        claim: Claim,
        *,
        lease_seconds: float,
        stall_seconds: float = STALL_SECONDS,
        end_process: Callable[[], Any] = lambda: os._exit(1),
    ) -> None:
        """Keep a claim.

        Args:
            claims: the record.
            claim: the job.
            lease_seconds: how long the claim lasts without being renewed.
            stall_seconds: time without a word of progress after which the job hangs.
            end_process: ends a process that nothing else can stop.
        """
        self.claim = claim
        self._stall_seconds = stall_seconds
        self._end_process = end_process
        self._moved_at = time.monotonic()
        self._interrupted_at: float | None = None
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
        self._spans = ExitStack()
        # What it says has the ids that this thread has.
        beat = partial(copy_context().run, self._beat)
        self._heart = threading.Thread(target=beat, name="heartbeat", daemon=True)

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
        self._spans.__exit__(kind, value, trace)
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
        reach(f"stage.{stage}")
        self._spans.close()
        self._spans.enter_context(span(f"stage {stage}"))
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
        reach(f"step.{self._stage}")
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
        self._moved_at = time.monotonic()
        if self._stop is not None:
            self._told_at = self._moved_at
            self._interrupted_at = None
            raise self._stop

    def note(self, kind: str, **data: Any) -> None:
        """Record something that happened besides; a record that does not answer loses it."""
        self._record(lambda: self._claims.note(self.claim, kind, data))

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
                    self._insist()
                continue
            if time.monotonic() - self._moved_at > self._stall_seconds:
                self._end_stalled()
            asked_at = time.monotonic()
            reach("heartbeat")
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

    def _insist(self) -> None:
        """Interrupt the main thread; end the process if it never comes to an instruction."""
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
        is_cancelled = self._stop is JobCancelledError
        # Who lost the job only keeps others waiting, and may come to save what it has come to.
        patience = DEAF_SECONDS if is_cancelled else PATIENCE_SECONDS
        if now - self._interrupted_at < patience:
            _thread.interrupt_main(_INTERRUPTION)
            return
        logger.error("job %s cannot be stopped; its process ends", self.claim.job_id)
        if is_cancelled:
            self._record_quietly(lambda: self._claims.cancel(self.claim))
        self._end_process()

    def _end_stalled(self) -> None:
        stage, seconds = self._stage, self._stall_seconds
        logger.error(
            "job %s has not come further for %g s in stage %s; its process ends, and it is tried "
            "again",
            *(self.claim.job_id, seconds, stage),
        )
        data = {"stage": stage, "seconds": seconds}
        self._record_quietly(lambda: self._claims.note(self.claim, "stalled", data))
        self._end_process()

    def _record_quietly(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (SQLAlchemyError, ClaimLostError):
            logger.warning("not recorded of job %s", self.claim.job_id, exc_info=True)

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
