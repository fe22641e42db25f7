"""What an inspection looks like."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from api.schemas.jobs import JobErrorView
from api.schemas.times import optional_time, time_of
from worker.contract.inspection import Inspection


class InspectionView(BaseModel):
    """What would become of a network."""

    id: str
    state: Literal["waiting", "answered", "refused"] = Field(
        description="`refused`: a job would fail, and `error` says why."
    )
    created_at: datetime
    finished_at: datetime | None
    error: JobErrorView | None
    summary: list[str] | None = Field(description="The answer in sentences.")
    answer: dict[str, Any] | None = Field(
        description="`plan` and `blocks` as in a report: what would be converted, and why the rest "
        "would not. `memory`: the predicted training step, by method, and the largest batches of "
        "GPUs. `time`: the seconds of a job by stage, and what they rest on; null where the "
        "network is too large to be tried and no job has measured it."
    )
    links: dict[str, str]

    @classmethod
    def of(cls, found: Inspection) -> Self:
        """Show an inspection."""
        error, answer = found.error, found.answer
        return cls(
            id=found.id,
            state="refused" if error else "answered" if answer else "waiting",
            created_at=time_of(found.created_at),
            finished_at=optional_time(found.finished_at),
            error=JobErrorView(code=error.code, message=error.message) if error else None,
            summary=answer["summary"] if answer else None,
            answer=answer,
            links={"self": f"/inspections/{found.id}"},
        )
