"""What the service answers with, as values; what a newer service adds is left aside."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from api.client.errors import UNEXPECTED_ANSWER, ApiError

T = TypeVar("T")

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Why a job failed."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file that a job made."""

    name: str
    num_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """A job as the service described it."""

    id: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    stage: str | None = None
    """Where it is while it runs, or where it failed."""
    progress: float = 0.0
    """Share of the work that is done, 0 to 1."""
    name: str | None = None
    tags: tuple[str, ...] = ()
    attempt: int = 0
    """Above 1: a worker died, and the job was run again."""
    cancel_requested: bool = False
    waiting_for: str | None = None
    """What a queued job waits for besides a free worker: `queue`, which is paused; `space` on the
    disk; a newer `worker`."""
    retry_of: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: dict[str, Any] | None = None
    """The figures of a job that succeeded."""
    error: JobError | None = None
    request: dict[str, Any] = field(default_factory=dict)
    """What was asked for, defaults included; empty in a list."""
    sent: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file as it was sent; empty in a list."""
    artifacts: tuple[Artifact, ...] = ()
    """The files it made; none in a list."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    """The answer itself, with what this version does not know."""

    @property
    def is_final(self) -> bool:
        """Whether it stays in this state."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a job."""

    number: int
    """From 1, without gaps."""
    kind: str
    """`queued started stage progress requeued cancel_requested cancelled succeeded failed`."""
    at: datetime
    attempt: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """What a job's worker said."""

    number: int
    at: datetime
    level: str
    """`info`, `warning` or `error`."""
    message: str
    logger: str = ""
    attempt: int = 0
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What a worker computes on."""

    name: str
    model: str = ""
    memory_bytes: int = 0
    num_threads: int = 0
    datasets: tuple[str, ...] = ()
    """Names of the registered data sets that are at hand there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process that carries jobs out."""

    name: str
    state: str
    """`alive`, or `silent` after some seconds without a word."""
    busy: bool = False
    draining: bool = False
    """Whether it finishes its job and takes no other."""
    current_job: str | None = None
    """Its job, if that is one that the caller may see."""
    device: Device | None = None
    queues: tuple[str, ...] = ()
    version: str = ""
    torch_version: str = ""
    started_at: datetime | None = None
    seen_at: datetime | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Where jobs wait."""

    name: str
    queued: int
    """Jobs of all tenants that wait."""
    running: int
    oldest_wait_seconds: float | None = None
    paused: bool = False
    """Whether no job of it starts."""
    paused_at: datetime | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """What somebody did, or was not allowed to do."""

    id: int
    at: datetime
    operation: str
    target: str
    status: int
    outcome: str
    tenant: str | None = None
    key_id: str | None = None
    address: str | None = None
    request_id: str = ""
    num_omitted: int = 0
    """Refusals of the same caller before this one that were too many to be noted."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a conversion would do."""

    id: str
    state: str
    """`waiting`, `answered`, or `refused`: a job would fail, and `error` says why."""
    summary: tuple[str, ...] | None = None
    """The answer in sentences."""
    answer: dict[str, Any] | None = None
    """`plan`, `blocks`, `memory` and `time`, as docs/api.md has it."""
    error: JobError | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """An option that is not the same in all requests."""

    path: str
    """A JSON pointer into `request`."""
    values: tuple[Any, ...]
    """Of each job, in their order; None where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure of all jobs that are compared."""

    path: str
    """A JSON pointer into `result`."""
    values: tuple[Any, ...]
    """Of each job, in their order; None where it has none."""
    better: str | None = None
    """`higher` or `lower`, where one is better."""
    best: tuple[int, ...] = ()
    """Numbers of the jobs with the best value, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Jobs that have succeeded, side by side."""

    jobs: tuple[JobRecord, ...]
    request_differences: tuple[Difference, ...] = ()
    figures: tuple[Figure, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooEntry:
    """Weights that a request may name."""

    name: str
    architecture: str
    is_default: bool = False
    """Whether the architecture's name alone means this entry."""
    num_classes: int = 0
    image_size: int = 0
    published_top1_percent: float | None = None
    has_data: bool = False
    """Whether it brings data to refine with."""
    is_shipped: bool = False
    """Whether it needs no download."""
    url: str | None = None
    licence: str = ""
    recipe: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Zoo:
    """The model zoo."""

    entries: tuple[ZooEntry, ...]
    architectures: tuple[str, ...] = ()
    """What a checkpoint may be."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredDataset:
    """A data set that a job may name."""

    name: str
    num_workers: int = 0
    """Workers that have it."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that was sent ahead of a request."""

    id: str
    num_bytes: int
    num_received: int = 0
    sha256: str | None = None
    """None until all of it is there."""
    expires_at: datetime | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key; the secret comes once, when it is made."""

    id: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    secret: str | None = field(default=None, repr=False)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A URL that is told of jobs; the secret comes once, when it is made."""

    id: str
    url: str
    events: tuple[str, ...]
    created_at: datetime
    disabled_at: datetime | None = None
    secret: str | None = field(default=None, repr=False)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A message to a webhook."""

    id: int
    job_id: str
    event: str
    state: str
    attempts: int
    created_at: datetime
    status: int | None = None
    """HTTP status of the receiver's last answer."""
    problem: str | None = None
    next_at: datetime | None = None
    finished_at: datetime | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the caller's tenant uses."""

    unfinished_jobs: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLimits:
    """What may be asked for."""

    max_upload_bytes: int
    upload_hours: float
    max_unfinished_jobs: int
    max_tenant_bytes: int | None = None
    intake: dict[str, int] = field(default_factory=dict)
    used: Usage = field(default_factory=Usage)
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceVersion:
    """What runs there."""

    version: str
    python: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """Whether the service can take jobs and carry them out."""

    status: str
    """`ok`, or `degraded`."""
    checks: dict[str, str] = field(default_factory=dict)
    """What it found of database, storage and broker: `ok`, or what failed."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


def read(kind: type[T], values: Any) -> T:
    """Make a value of a JSON object.

    Fields that `kind` does not have are left to `raw`, if it has that; fields with a default may be
    missing.

    Args:
        kind: one of the dataclasses above.
        values: the JSON object.

    Raises:
        ApiError: `unexpected_answer`, a field is missing or not what it should be.
    """
    with _unexpected(kind):
        return _read(kind, values)


def read_list(kind: type[T], values: Any, name: str) -> list[T]:
    """Make values of the list that a JSON object has under a name.

    Raises:
        ApiError: `unexpected_answer`, there is no such list, or an entry is not what it should be.
    """
    with _unexpected(kind):
        return [_read(kind, one) for one in values[name]]


@contextmanager
def _unexpected(kind: type[Any]) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError(
            UNEXPECTED_ANSWER,
            f"the answer is no {kind.__name__} ({type(error).__name__}: {error}); does the URL "
            "lead to Momentum Zoo, and is this client as new as the service?",
        ) from None


def _read(kind: type[T], values: Any) -> T:
    if not isinstance(values, Mapping):
        raise TypeError(f"{type(values).__name__} in place of an object")
    given: dict[str, Any] = {}
    for name, hint, is_required in _fields_of(kind):  # type: ignore[arg-type]
        if name == "raw":
            given["raw"] = dict(values)
        elif name in values:
            given[name] = _value(hint, values[name])
        elif is_required:
            raise KeyError(name)
    return kind(**given)


@cache
def _fields_of(kind: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    return tuple(
        (
            one.name,
            hints[one.name],
            one.default is missing and one.default_factory is missing,
        )
        for one in dataclasses.fields(kind)
    )


def _value(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not types.NoneType]
        return None if value is None else _value(inner[0], value)
    if origin is tuple:
        return tuple(_value(get_args(hint)[0], one) for one in value)
    if origin is dict:
        return dict(value)
    if hint is datetime:
        return datetime.fromisoformat(value)
    if dataclasses.is_dataclass(hint):
        return _read(hint, value)  # type: ignore[arg-type]
    return value
