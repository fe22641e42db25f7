"""One job from claim to end: what goes wrong in it becomes its error, whatever it is."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from momentum_core.errors import MomentumError
from momentum_core.refinement import is_out_of_memory
from worker.active_job import ActiveJob
from worker.contract.database import open_database
from worker.contract.file_store import FileStore
from worker.contract.job import Claim, JobError
from worker.contract.job_claims import ClaimLostError, JobCancelledError, JobClaims
from worker.contract.job_logs import JobLogs
from worker.contract.settings import Settings
from worker.conversion_job import Workplace, convert_for_job
from worker.device import choose_device
from worker.job_log import JobLog
from worker.model_source import ModelSources
from worker.names import hub_of, register_architectures

OUT_OF_MEMORY = "out_of_memory"
STORAGE_FULL = "storage_full"
INTERNAL_ERROR = "internal_error"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a worker's child uses for all its jobs."""

    claims: JobClaims
    logs: JobLogs
    workplace: Workplace
    worker: str
    lease_seconds: float


def create_services(settings: Settings, *, worker: str) -> Services:
    """Connect to the record and the store.

    Args:
        settings: where they are.
        worker: the name under which jobs are claimed.
    """
    register_architectures(settings)
    files = FileStore(settings.data_folder)
    files.clear_temporary()
    engine = open_database(settings.database)
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
            ),
            device=choose_device(settings.device),
            checkpoint_seconds=settings.checkpoint_seconds,
        ),
        worker=worker,
        lease_seconds=settings.lease_seconds,
    )


def run_job(job_id: str, services: Services) -> None:
    """Claim a job and carry it out; do nothing if it is not to be had.

    Args:
        job_id: which one.
        services: connections of this process.
    """
    claim = services.claims.claim(job_id, worker=services.worker)
    if claim is None:
        logger.info("job %s is not to be had: it runs elsewhere, or it has ended", job_id)
        return
    with JobLog(services.logs, claim):
        logger.info("job %s: attempt %d, on %s", job_id, claim.attempt, services.workplace.device)
        try:
            _work(job_id, claim, services)
        except JobCancelledError:
            _cancel(claim, services)
        except SQLAlchemyError:
            logger.exception("job %s: the record does not answer; it runs again later", job_id)
        except ClaimLostError:
            # What it has come to stays: the next attempt goes on from there.
            logger.warning("job %s was taken from this worker, which stops its work on it", job_id)


def _work(job_id: str, claim: Claim, services: Services) -> None:
    with ActiveJob(services.claims, claim, lease_seconds=services.lease_seconds) as active:
        try:
            job, checkpoint, data = services.claims.read(claim)
            result, artifacts = convert_for_job(
                job, checkpoint, data, workplace=services.workplace, active=active
            )
            services.claims.succeed(claim, result=result, files=artifacts)
            services.workplace.files.drop_unfinished(job_id)
            logger.info("job %s succeeded", job_id)
        except (ClaimLostError, JobCancelledError, SQLAlchemyError):
            # Without the record nothing can be said of the job: its lease decides.
            raise
        except Exception as error:
            active.check()  # a library may have made another error of the interruption
            failure = _job_error(error)
            logger.exception("job %s failed: %s: %s", job_id, failure.code, failure.message)
            services.claims.fail(claim, failure)
            services.workplace.files.drop_unfinished(job_id)


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
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError(
            code=STORAGE_FULL,
            message="the disk that holds MOMENTUM_DATA_DIR is full; have the operator free space, "
            "then send the request again",
        )
    if is_out_of_memory(error):
        return JobError(
            code=OUT_OF_MEMORY,
            message="the worker ran out of memory; try smaller measurement.batch_size and "
            "refinement.batch_size, or a worker with more memory",
        )
    # Its text may name files and hosts: that is for the operator's log.
    return JobError(
        code=INTERNAL_ERROR,
        message=f"an error of the service ({type(error).__name__}); the worker's log has it under "
        "the job's id",
    )
