"""A job as the record holds it, and the states it can be in.

queued ---> running ---> succeeded
  |  ^         |--------> failed
  |  '---------|          (back to queued: its worker died or was stopped)
  '------> cancelled <----'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DEFAULT_TENANT = "default"


class JobState(StrEnum):
    """What decides what may happen to a job next."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job stays in this state for ever."""
        return not NEXT_STATES[self]


NEXT_STATES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class Stage(StrEnum):
    """Where a running job is; in this order."""

    LOADING = "loading"
    PLANNING = "planning"
    CONVERTING = "converting"
    MEASURING = "measuring"
    REFINING = "refining"
    EVALUATING = "evaluating"
    PACKAGING = "packaging"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Why a job failed."""

    code: str
    """A stable word for programs, as in HTTP answers."""

    message: str
    """What is wrong and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One row of the record; times are seconds since 1970, UTC."""

    id: str
    tenant: str
    name: str | None
    state: JobState
    stage: Stage | None
    """Where it is while it runs; where it failed."""
    progress: float
    """Share of the work that is done, 0 to 1."""
    attempt: int
    """How often a worker has started it; starts that ended in an orderly stop are not counted."""
    fence: int
    """Grows with every change of hands; a write with an older one is refused."""
    worker: str | None
    lease_until: float | None
    request: dict[str, Any]
    checkpoint_id: str | None
    """The upload that holds the weights; None if they come from the zoo."""
    data_id: str | None
    """The upload that holds the data set."""
    result: dict[str, Any] | None
    error: JobError | None
    revision: int
    """Grows with every event; also the number of the newest event."""
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    """When it may be forgotten; None: not as long as it has not ended, or nobody says."""
    cancel_requested: bool
    """Whether it is to stop; a running job does so within seconds."""
    waiting_for: str | None
    """What a queued job waits for besides a free worker: `queue`, which is paused; `space` on the
    disk; another `worker`, newer or with more memory."""
    retry_of: str | None
    """The job whose request this one repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that a user sent and that was accepted."""

    id: str
    tenant: str
    kind: str
    """`checkpoint` or `dataset`."""
    blob_sha256: str
    """The stored file; for a checkpoint the canonical one."""
    num_bytes: int
    facts: dict[str, Any]
    """`CheckpointFacts` or `DatasetFacts`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file that a job made."""

    name: str
    sha256: str
    num_bytes: int
    media_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a job; numbered from 1 without gaps."""

    number: int
    kind: str
    at: float
    attempt: int
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A worker's right to write to a job, until its lease ends or somebody else claims it."""

    job_id: str
    worker: str
    fence: int
    attempt: int
    origin: Mapping[str, str] | None = field(default=None, compare=False)
    """Ids of the request that the job came of."""
