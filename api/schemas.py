"""What the API answers with, as OpenAPI documents it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from worker.contract.address_guard import MAX_URL_CHARACTERS
from worker.contract.job import DEFAULT_TENANT, Artifact, Event, Job, JobState, Stage, Upload
from worker.contract.key_store import ApiKey, Scope
from worker.contract.partial_uploads import PartialFile
from worker.contract.upload_store import ReceivedFile
from worker.contract.webhook_store import Delivery, DeliveryState, Webhook
from worker.contract.zoo import ZooEntry


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
    retry_of: str | None = Field(description="The job whose request this one repeats.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
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


class UploadView(BaseModel):
    """A file that was sent ahead of a request."""

    id: str
    num_bytes: int
    num_received: int = Field(description="Bytes that are there; fewer while it comes in pieces.")
    sha256: str | None = Field(description="Null until all of it is there.")
    created_at: datetime
    expires_at: datetime = Field(description="When it is forgotten.")

    @classmethod
    def of(cls, file: ReceivedFile | PartialFile) -> Self:
        """Show a file that has arrived, or is on its way."""
        return cls(
            id=file.id,
            num_bytes=file.num_bytes,
            num_received=file.num_received if isinstance(file, PartialFile) else file.num_bytes,
            sha256=None if isinstance(file, PartialFile) else file.sha256,
            created_at=_time(file.created_at),
            expires_at=_time(file.expires_at),
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
            at=_time(event.at),
            attempt=event.attempt,
            data=event.data,
        )


class EventPage(BaseModel):
    """Events in order; ask for more with `after` set to the last number."""

    events: list[EventView]


class KeyRequest(BaseModel):
    """A key that is wanted."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="What it is for.")
    tenant: str = Field(
        default=DEFAULT_TENANT,
        pattern="^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Whose jobs it sees; tenants see nothing of each other.",
    )
    scopes: list[Scope] = Field(default=[Scope.READ, Scope.WRITE], min_length=1, max_length=3)
    expires_in_days: float | None = Field(default=None, gt=0, le=3650, strict=True)


class KeyView(BaseModel):
    """A key without its secret."""

    id: str
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Show a key."""
        return cls(**_key(key))


class NewKeyView(KeyView):
    """A key that was just made."""

    secret: str = Field(description="To be sent as `Authorization: Bearer`; it is not kept.")

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str) -> Self:
        """Show a key with its secret."""
        return cls(**_key(key), secret=secret)


class KeyList(BaseModel):
    """Keys, the newest first."""

    keys: list[KeyView]


class ToldKind(StrEnum):
    """What a webhook can be told of."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WebhookRequest(BaseModel):
    """A webhook that is wanted."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        description="Where to send messages by POST; at a public address.",
        examples=["https://example.org/momentum"],
    )
    events: list[ToldKind] = Field(
        default=[ToldKind.SUCCEEDED, ToldKind.FAILED, ToldKind.CANCELLED],
        min_length=1,
        max_length=len(ToldKind),
    )


class WebhookView(BaseModel):
    """A webhook without its secret."""

    id: str
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None = Field(description="When the receiver answered 410.")

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Show a webhook."""
        return cls(**_webhook(webhook))


class NewWebhookView(WebhookView):
    """A webhook that was just made."""

    secret: str = Field(description="Messages are signed with it; it is not shown again.")

    @classmethod
    def with_secret(cls, webhook: Webhook, secret: str) -> Self:
        """Show a webhook with its secret."""
        return cls(**_webhook(webhook), secret=secret)


class WebhookList(BaseModel):
    """Webhooks, the newest first."""

    webhooks: list[WebhookView]


class DeliveryView(BaseModel):
    """A message to a webhook."""

    id: int
    job_id: str
    event: str
    state: DeliveryState
    attempts: int
    status: int | None = Field(description="HTTP status of the last answer.")
    problem: str | None = Field(description="What went wrong at the last attempt.")
    created_at: datetime
    next_at: datetime | None = Field(description="When it is tried again.")
    finished_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Show a message."""
        return cls(
            id=delivery.id,
            job_id=delivery.job_id,
            event=delivery.kind,
            state=delivery.state,
            attempts=delivery.attempts,
            status=delivery.status,
            problem=delivery.problem,
            created_at=_time(delivery.created_at),
            next_at=_optional_time(delivery.next_at),
            finished_at=_optional_time(delivery.finished_at),
        )


class DeliveryList(BaseModel):
    """Messages, the newest first."""

    deliveries: list[DeliveryView]


class ZooEntryView(BaseModel):
    """Weights that a request may name."""

    name: str = Field(examples=["resnet50.IMAGENET1K_V2"])
    is_default: bool = Field(description="Whether the architecture's name alone means this entry.")
    architecture: str
    num_classes: int
    image_size: int
    published_top1_percent: float | None
    has_data: bool = Field(description="Whether the entry brings data to refine with.")
    is_shipped: bool = Field(description="Whether it needs no download.")
    url: str | None
    licence: str
    recipe: str

    @classmethod
    def of(cls, entry: ZooEntry) -> Self:
        """Show an entry."""
        return cls(
            name=entry.name,
            is_default=entry.is_default,
            architecture=entry.architecture,
            num_classes=entry.num_classes,
            image_size=entry.image_size,
            published_top1_percent=entry.published_top1,
            has_data=entry.data_file is not None,
            is_shipped=entry.url is None,
            url=entry.url,
            licence=entry.licence,
            recipe=entry.recipe,
        )


class Zoo(BaseModel):
    """The model zoo."""

    entries: list[ZooEntryView]
    architectures: list[str] = Field(description="What a checkpoint may be.")


class Health(BaseModel):
    """Whether the service can work, part by part."""

    status: str = Field(examples=["ok"])
    checks: dict[str, str] = Field(default_factory=dict)


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
    max_unfinished_jobs: int = Field(description="Jobs of a tenant that may wait or run at once.")
    max_tenant_bytes: int | None = Field(description="Of a tenant; null: as the disk has room.")
    intake: dict[str, int] = Field(description="What a file may ask for; see docs/security.md.")
    used: UsageView


class ProblemView(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str = Field(examples=["invalid_request"])
    detail: str
    errors: list[dict[str, str]] | None = None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _optional_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)


def _summary(job: Job) -> dict[str, Any]:
    at = f"/jobs/{job.id}"
    links = {"self": at, "events": f"{at}/events"}
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
        "retry_of": job.retry_of,
        "created_at": _time(job.created_at),
        "started_at": _optional_time(job.started_at),
        "finished_at": _optional_time(job.finished_at),
        "result": job.result,
        "error": error and JobErrorView(code=error.code, message=error.message),
        "links": links,
    }


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": _time(key.created_at),
        "expires_at": _optional_time(key.expires_at),
        "revoked_at": _optional_time(key.revoked_at),
    }


def _webhook(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.kinds),
        "created_at": _time(webhook.created_at),
        "disabled_at": _optional_time(webhook.disabled_at),
    }
