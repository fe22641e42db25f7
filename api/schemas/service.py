"""What the service says of itself."""

from __future__ import annotations

from pydantic import BaseModel, Field


class VersionView(BaseModel):
    """What runs here."""

    version: str = Field(examples=["0.1.0"])
    python: str = Field(examples=["3.11.2"])


class UsageView(BaseModel):
    """What a tenant uses."""

    unfinished_jobs: int
    stored_bytes: int = Field(description="Of uploads and artifacts; what two share counts twice.")


class LimitsView(BaseModel):
    """What may be asked for, and what is used of it."""

    max_upload_bytes: int = Field(description="Of one request.")
    upload_hours: float = Field(description="Time that a file sent ahead is kept.")
    job_days: float = Field(description="Time that a job is kept after its end; 0: for ever.")
    max_unfinished_jobs: int = Field(description="Jobs of a tenant that may wait or run at once.")
    max_tenant_bytes: int | None = Field(description="Of a tenant; null: as the disk has room.")
    intake: dict[str, int] = Field(description="What a file may ask for; see docs/security.md.")
    used: UsageView


class Health(BaseModel):
    """Whether the service can work, part by part."""

    status: str = Field(examples=["ok"])
    checks: dict[str, str] = Field(default_factory=dict)


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str = Field(examples=["invalid_request"])
    detail: str
    errors: list[dict[str, str]] | None = None
