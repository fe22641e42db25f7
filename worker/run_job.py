"""One job from claim to end: what goes wrong in it becomes its error, whatever it is."""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from momentum_core.errors import MomentumError
from momentum_core.memory_errors import is_out_of_memory
from worker.active_job import ActiveJob
from worker.contract.collector import Collector
from worker.contract.database import UNAVAILABLE, open_database
from worker.contract.job import Claim, JobError
from worker.contract.job_claims import (
    MAX_SPACE_WAITS,
    ClaimLostError,
    JobCancelledError,
    JobClaims,
)
from worker.contract.job_logs import JobLogs
from worker.contract.origin import JOB_ID, at_work
from worker.contract.settings import Settings
from worker.contract.shared_file_store import open_file_store
from worker.contract.shared_files import StoreUnavailableError
from worker.contract.tracing import span
from worker.contract.worker_store import Device
from worker.conversion_job import Workplace, convert_for_job
from worker.device import choose_device, device_facts
from worker.job_log import JobLog
from worker.model_source import ModelSources
from worker.names import datasets_of, hub_of, register_architectures
from worker.registered_datasets import RegisteredDatasets
from worker.training_group import HelperLostError, TrainingGroup

OUT_OF_MEMORY = "out_of_memory"
INTERNAL_ERROR = "internal_error"

STORAGE_FULL = "storage_full"

END_TRIES = 5
"""How often it is tried to record a job's end."""

RECORD_SECONDS, RECORD_TRIES_EVERY = 60.0, 0.5
"""How long, and how often, it is tried to say of a job that it waits for space."""

logger = logging.getLogger(__name__)


class _DiskFullError(Exception):
    """The job is to go on when the disk has room, or the object store answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a worker's child uses for all its jobs."""

    claims: JobClaims
    logs: JobLogs
    workplace: Workplace
    worker: str
    computes_on: Device
    datasets: RegisteredDatasets
    lease_seconds: float
    stall_seconds: float

    @property
    def device(self) -> Device:
        """The device, with the data sets that are at hand at this moment."""
        return replace(self.computes_on, datasets=self.datasets.names())


def create_services(settings: Settings, *, worker: str) -> Services:
    """Connect to the record and the store.

    Args:
        settings: where they are.
        worker: the name under which jobs are claimed.
    """
    register_architectures(settings)
    files = open_file_store(settings)
    files.clear_temporary()
    engine, device = open_database(settings.database), choose_device(settings.device)
    datasets = datasets_of(settings)
    datasets.look()
    if settings.store_url is not None:
        Collector(engine, files).clear_states()
    return Services(
        claims=JobClaims(engine, lease_seconds=settings.lease_seconds),
        logs=JobLogs(engine),
        workplace=Workplace(
            files=files,
            sources=ModelSources(
                files,
                zoo_folder=settings.zoo_folder,
                zoo_base_url=settings.zoo_base_url,
                hub=hub_of(settings),
                datasets=datasets,
            ),
            device=device,
            group=TrainingGroup.of(device, settings.training_processes),
            checkpoint_seconds=settings.checkpoint_seconds,
        ),
        worker=worker,
        computes_on=device_facts(device),
        datasets=datasets,
        lease_seconds=settings.lease_seconds,
        stall_seconds=settings.stall_seconds,
    )


def run_job(job_id: str, services: Services, *, is_only_worker: bool = False) -> None:
    """Claim the job whose turn it is and carry it out; do nothing if there is none.

    Args:
        job_id: whose message came.
        services: connections of this process.
        is_only_worker: take it even if it asks for what this worker lacks: there is no better one,
            and it then ends with the reason.
    """
    device = None if is_only_worker else services.device
    claim = services.claims.claim(job_id, worker=services.worker, device=device)
    if claim is None:
        logger.info("job %s was announced, and there is nothing to do for this worker", job_id)
        return
    job_id = claim.job_id
    ids = {JOB_ID: job_id, **(claim.origin or {})}
    facts = {"job_id": job_id, "attempt": claim.attempt, "worker": claim.worker}
    with at_work(ids), span("job", origin=ids, **facts), JobLog(services.logs, claim):
        logger.info("job %s: attempt %d, on %s", job_id, claim.attempt, services.workplace.device)
        try:
            _work(job_id, claim, services)
        except JobCancelledError:
            _cancel(claim, services)
        except _DiskFullError:
            _wait_for_space(claim, services)
        except SQLAlchemyError:
            logger.exception("job %s: the record does not answer; it runs again later", job_id)
        except HelperLostError as lost:
            logger.warning("job %s: %s; it runs again later", job_id, lost)
        except ClaimLostError:
            # What it has come to stays: the next attempt goes on from there.
            logger.warning("job %s was taken from this worker, which stops its work on it", job_id)


def _work(job_id: str, claim: Claim, services: Services) -> None:
    keeping = ActiveJob(
        services.claims,
        claim,
        lease_seconds=services.lease_seconds,
        stall_seconds=services.stall_seconds,
    )
    with keeping as active:
        try:
            job, checkpoint, data = services.claims.read(claim)
            result, artifacts = convert_for_job(
                job, checkpoint, data, workplace=services.workplace, active=active
            )
            _persist(lambda: services.claims.succeed(claim, result=result, files=artifacts), active)
            logger.info("job %s succeeded", job_id)
        except (ClaimLostError, JobCancelledError):
            raise
        except Exception as error:
            active.check()  # a library may have made another error of the interruption
            if isinstance(error, StoreUnavailableError) or _is_disk_full(error):
                raise _DiskFullError from error
            if isinstance(error, SQLAlchemyError | HelperLostError):
                # Without the record nothing can be said of the job; and a process that was lost is
                # as good as this one: the lease decides.
                raise
            failure = _job_error(error)
            logger.exception("job %s failed: %s: %s", job_id, failure.code, failure.message)
            _persist(lambda: services.claims.fail(claim, failure), active)
    # Not while the job is kept: that it is not this worker's any more would look like a loss.
    services.workplace.files.drop_unfinished(job_id)


def _persist(write: Callable[[], None], active: ActiveJob) -> None:
    """Write a job's end; a record that is locked for a while does not cost the work again."""
    for tries_left in reversed(range(END_TRIES)):
        try:
            write()
        except UNAVAILABLE as error:
            if tries_left == 0 or _is_disk_full(error):
                raise
            active.check()
            time.sleep(RECORD_TRIES_EVERY)
        else:
            return


def _wait_for_space(claim: Claim, services: Services) -> None:
    """Queue the job again until there is room; what it has come to stays."""
    logger.warning("job %s cannot keep its files; it goes on once there is room", claim.job_id)
    given_up_at = time.monotonic() + RECORD_SECONDS
    while True:
        try:
            if not services.claims.wait_for_space(claim):
                services.claims.fail(claim, _never_room())
                services.workplace.files.drop_unfinished(claim.job_id)
        except ClaimLostError:
            logger.warning("job %s was taken from this worker", claim.job_id)
            return
        except SQLAlchemyError:
            # The record may be on the same disk: then it can be told once that has room.
            if time.monotonic() > given_up_at:
                logger.exception("job %s: the record does not answer", claim.job_id)
                return
            time.sleep(RECORD_TRIES_EVERY)
        else:
            return


def _never_room() -> JobError:
    return JobError(
        code=STORAGE_FULL,
        message=f"the job found a disk full, or the object store away, {MAX_SPACE_WAITS + 1} "
        "times, although there was room in between: it needs more than there is, in "
        "MOMENTUM_DATA_DIR or where the worker keeps temporary files; have the operator make room, "
        "then send it again",
    )


def _cancel(claim: Claim, services: Services) -> None:
    try:
        services.claims.cancel(claim)
        services.workplace.files.drop_unfinished(claim.job_id)
        logger.info("job %s was cancelled", claim.job_id)
    except SQLAlchemyError:
        logger.exception("job %s: the record does not answer; the relay ends it", claim.job_id)
    except ClaimLostError:
        # It had ended when the word came, or its lease had.
        logger.info("job %s was to be cancelled, and had ended", claim.job_id)


def _job_error(error: Exception) -> JobError:
    if isinstance(error, MomentumError):
        return JobError(code=error.code, message=str(error))
    if is_out_of_memory(error):
        return JobError(
            code=OUT_OF_MEMORY,
            message=f"the worker ran out of memory{_tried(error)}; try smaller "
            "measurement.batch_size and refinement.batch_size, or a worker with more memory",
        )
    # Its text may name files and hosts: that is for the operator's log.
    return JobError(
        code=INTERNAL_ERROR,
        message=f"an error of the service ({type(error).__name__}); the worker's log has it under "
        "the job's id",
    )


def _is_disk_full(error: BaseException) -> bool:
    """Return whether an error, of whichever library, comes of a disk without room."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors says it in words; SQLite, too.
    words = str(error).lower()
    if "no space left on device" in words or "database or disk is full" in words:
        return True
    return error.__cause__ is not None and _is_disk_full(error.__cause__)


def _tried(error: Exception) -> str:
    """Return how much was asked for in vain, as torch says it."""
    found = re.search(r"[Tt]ried to allocate (\d[\d.]*) ?(bytes|[KMGT]iB)", str(error))
    return "" if found is None else f" as it asked for another {found[1]} {found[2]}"
