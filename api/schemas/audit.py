"""What the audit log looks like."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.times import time_of
from worker.contract.audit_log import Entry, Outcome


class AuditEntryView(BaseModel):
    """What somebody did, or was not allowed to do."""

    id: int
    at: datetime
    request_id: str = Field(description="As the answer's header `X-Request-Id`.")
    tenant: str | None = Field(description="Null: nobody knows who asked.")
    key_id: str | None = Field(description="Null: without a key, or with none that holds.")
    address: str | None = Field(description="Where the request came from.")
    operation: str = Field(examples=["cancel_job"])
    target: str = Field(examples=["/jobs/0123456789abcdef0123456789abcdef"])
    status: int
    outcome: Outcome
    num_omitted: int = Field(
        description="Refusals of the same caller before this one that were too many to be noted."
    )

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Show an entry."""
        return cls(id=entry.id, at=time_of(entry.at), **asdict(entry.deed))


class AuditPage(BaseModel):
    """Entries, the newest first."""

    entries: list[AuditEntryView]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")
