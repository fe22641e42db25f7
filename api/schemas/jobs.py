"""What jobs look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from api.job_comparison import differences, figures
from api.schemas.times import optional_time, time_of
from worker.contract.job import Artifact, Event, Job, JobState, Stage, Upload


class JobErrorView(BaseModel):
    """Why a job failed."""

    code: str = Field(examples=["zoo_unavailable"])
    message: str


class ArtifactView(BaseModel):
    """A file that a job made."""

    name: str = Field(examples=["model.safetensors"])
    num_bytes: int
    sha256: str
    media_type: str
    url: str


class JobSummary(BaseModel):
    """A job in a list."""

    id: str
    name: str | None
    tags: list[str]
    state: JobState
    stage: Stage | None = Field(description="Where a job is while it runs, or where it failed.")
    progress: float = Field(description="Share of the work that is done, 0 to 1.")
    attempt: int = Field(description="Above 1: a worker died, and the job was run again.")
    cancel_requested: bool = Field(
        description="Whether the job is to stop; it does within seconds."
    )
    waiting_for: str | None = Field(
        description="What a queued job waits for besides a free worker: `queue`, which is paused; "
        "`space` on the disk, which was full; another `worker`, as those that saw it do not know "
        "what it asks for, or have too little memory. It goes on by itself.",
        examples=["queue"],
    )
    retry_of: str | None = Field(description="The job whose request this one repeats.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(
        description="When an ended job is forgotten, with its files; null: never."
    )
    result: dict[str, Any] | None = Field(description="The figures of a job that succeeded.")
    error: JobErrorView | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job) -> Self:
        """Show a job."""
        return cls(**_summary(job))


class JobPage(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobSummary]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")


class JobView(JobSummary):
    """A job, as far as it has come."""

    request: dict[str, Any] = Field(description="What was asked for, defaults included.")
    sent: dict[str, str] = Field(
        description="SHA-256 of each file as it was sent, by the name of its part.",
        examples=[{"checkpoint": "12fca82f"}],
    )
    artifacts: list[ArtifactView]

    @classmethod
    def of_all(cls, job: Job, artifacts: list[Artifact], uploads: dict[str, Upload]) -> Self:
        """Show a job, the files it made, and the digests of those that were sent."""
        return cls(
            **_summary(job),
            request=job.request,
            sent={part: upload.facts["sha256"] for part, upload in uploads.items()},
            artifacts=[
                ArtifactView(
                    name=one.name,
                    num_bytes=one.num_bytes,
                    sha256=one.sha256,
                    media_type=one.media_type,
                    url=f"/jobs/{job.id}/artifacts/{one.name}",
                )
                for one in artifacts
            ],
        )


class DifferenceView(BaseModel):
    """An option that is not the same in all requests."""

    path: str = Field(examples=["/conversion/gamma"], description="A JSON pointer into `request`.")
    values: list[Any] = Field(description="Of each job, in their order; null where it has none.")


class FigureView(BaseModel):
    """A figure of all jobs."""

    path: str = Field(
        examples=["/peak_bytes/momentum"], description="A JSON pointer into `result`."
    )
    better: Literal["higher", "lower"] | None
    values: list[Any] = Field(description="Of each job, in their order; null where it has none.")
    best: list[int] = Field(description="Numbers of the jobs with the best value, from 0.")


class JobComparison(BaseModel):
    """Finished jobs side by side."""

    jobs: list[JobSummary] = Field(description="In the order of the request.")
    request_differences: list[DifferenceView]
    figures: list[FigureView] = Field(
        description="Of `result`, and `/seconds`: from the start of the last attempt to the end."
    )

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Self:
        """Compare jobs."""
        return cls(
            jobs=[JobSummary.of(job) for job in jobs],
            request_differences=[DifferenceView(**asdict(one)) for one in differences(jobs)],
            figures=[FigureView(**asdict(one)) for one in figures(jobs)],
        )


class EventView(BaseModel):
    """Something that happened to a job."""

    number: int
    kind: str = Field(examples=["queued", "started", "stage", "progress", "succeeded"])
    at: datetime
    attempt: int
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        """Show an event."""
        return cls(
            number=event.number,
            kind=event.kind,
            at=time_of(event.at),
            attempt=event.attempt,
            data=event.data,
        )


class EventPage(BaseModel):
    """Events in order; ask for more with `after` set to the last number."""

    events: list[EventView]


def _summary(job: Job) -> dict[str, Any]:
    at = f"/jobs/{job.id}"
    links = {"self": at, "events": f"{at}/events", "logs": f"{at}/logs"}
    if job.state == JobState.SUCCEEDED:
        links |= {name: f"{at}/{name}" for name in ("weights", "bundle", "report")}
    links |= {"retry": f"{at}/retry"} if job.state.is_final else {"cancel": f"{at}/cancel"}
    error = job.error
    return {
        "id": job.id,
        "name": job.name,
        "tags": job.request.get("tags", []),
        "state": job.state,
        "stage": job.stage,
        "progress": job.progress,
        "attempt": job.attempt,
        "cancel_requested": job.cancel_requested,
        "waiting_for": job.waiting_for,
        "retry_of": job.retry_of,
        "created_at": time_of(job.created_at),
        "started_at": optional_time(job.started_at),
        "finished_at": optional_time(job.finished_at),
        "expires_at": optional_time(job.expires_at),
        "result": job.result,
        "error": error and JobErrorView(code=error.code, message=error.message),
        "links": links,
    }
