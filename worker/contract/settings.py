"""Every setting of the service, read from the environment once, in the processes' entry points."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL

from momentum_core.checkpoint import Limits
from worker.contract.address_guard import Network
from worker.contract.process_logs import LogFormat

SECONDS_PER_DAY = 86400.0

SECRETS_DIR_VARIABLE = "MOMENTUM_SECRETS_DIR"
"""Names a folder whose files are settings, each named like its variable in small letters."""


class Settings(BaseSettings):
    """Settings of the API, the relay and the worker; each field is `MOMENTUM_` and its name."""

    model_config = SettingsConfigDict(env_prefix="MOMENTUM_", env_ignore_empty=True, frozen=True)

    def __init__(self, **values: Any) -> None:
        """Read the environment, and the folder of secrets that it names, if it names one."""
        super().__init__(_secrets_dir=os.environ.get(SECRETS_DIR_VARIABLE) or None, **values)

    data_dir: Path = Field(
        default=Path(".momentum"),
        description="Folder that holds everything the service writes.",
    )
    store_url: str | None = Field(
        default=None,
        description="Object store that all machines share, as `s3://bucket/prefix`; if not set, "
        "files are in the data folder alone, and every process needs that one.",
    )
    # As one value: two sources must not be mixed, as those of a dictionary would be.
    store_options: Annotated[dict[str, Any], NoDecode] = Field(
        default={},
        description="Options of the store's driver, as JSON; of S3 "
        '`{"endpoint_url": "https://s3.example.org", "key": "...", "secret": "..."}`. Without a '
        "key the driver looks where AWS's own programs do (`AWS_ACCESS_KEY_ID`, a role).",
    )
    cache_bytes: int = Field(
        default=50 << 30,
        ge=0,
        description="Bytes of the object store's files that a machine keeps in its data folder; "
        "what was used in the last hour always stays.",
    )
    database_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of the job record; SQLite in the data folder if not set. "
        "PostgreSQL: `postgresql+psycopg://user@host/database`.",
    )
    broker_url: str | None = Field(
        default=None,
        description="URL of Redis or Valkey; if not set, `momentum serve` starts an embedded one, "
        "and a process started by itself takes `redis://127.0.0.1:6379/0`. "
        "Unix socket: `redis+socket:///path`.",
    )
    zoo_dir: Path | None = Field(
        default=None,
        description="Folder of fetched zoo weights, which may be filled by hand; "
        "`zoo` in the data folder if not set.",
    )
    zoo_base_url: str | None = Field(
        default=None,
        description="Mirror of the zoo's published weights; their own address if not set.",
    )
    hub_url: str = Field(
        default="https://huggingface.co",
        description="The Hugging Face hub that zoo names with `timm:` and `hf:` come from, or a "
        "mirror.",
    )
    hub_dir: Path | None = Field(
        default=None,
        description="Folder with copies of repositories of the hub (`org/name/config.json`, "
        "`model.safetensors`), which are taken from there.",
    )
    datasets_dir: Path | None = Field(
        default=None,
        description="Folder of data sets that jobs name, on the worker: each folder in it (class "
        "folders, WebDataset shards, what torchvision downloads), archive or `.npz` is one.",
    )
    architectures: dict[str, str] = Field(
        default={},
        description="Architectures of your own, as JSON with a name and what builds it: "
        '`{"my_net": "my_package.networks:build"}` is known as `own:my_net`. The worker and the '
        "inspection worker import it.",
    )
    log_format: LogFormat = Field(
        default="text",
        description="What processes write to standard error: lines for people (`text`), or `json` "
        "with the ids of request and job.",
    )
    device: str = Field(
        default="auto",
        description="Where the worker computes: `cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if "
        "there is one.",
    )
    training_processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes of a worker that train a job's network together, each on a GPU of "
        "its own from `MOMENTUM_DEVICE` on; without GPUs they share the processor.",
    )
    max_upload_bytes: int = Field(
        default=2 << 30,
        gt=0,
        description="Largest request that is accepted, in bytes.",
    )
    require_keys: bool = Field(
        default=False,
        description="Whether every request needs an API key, also one from this machine. Requests "
        "from elsewhere always do. Without any key, a first one is made at the start and written "
        "to `first-key` in the data folder.",
    )
    metrics_token: str | None = Field(
        default=None,
        min_length=20,
        description="Bearer token that `GET /metrics` takes, and nothing else does: Prometheus, "
        "which then needs no key. Keys with the scope `admin` are taken there, too.",
    )
    max_unfinished_jobs: int = Field(
        default=1000,
        ge=1,
        description="Jobs of a tenant that may wait or run at once.",
    )
    max_tenant_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Bytes that a tenant's uploads and artifacts may take; unlimited if not set.",
    )
    intake_limits: dict[str, int] = Field(
        default={},
        description="What a file that is sent may ask for, as JSON with the limits of "
        '`docs/security.md` that shall differ: `{"max_tensors": 50000}`.',
    )
    min_free_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="Free space of the data folder's disk below which no upload is accepted.",
    )
    webhook_networks: list[str] = Field(
        default=[],
        description="Networks that webhooks may call although they are not public, as JSON: "
        '`["10.1.0.0/16", "127.0.0.1"]`.',
    )
    receive_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Time that a request's head may take, and its body in any case.",
    )
    min_bytes_per_second: float = Field(
        default=1000.0,
        gt=0,
        description="A body may take longer than that by as much as it has bytes at this rate; who "
        "reads an answer more slowly loses the connection.",
    )
    inspect_seconds: float = Field(
        default=10.0,
        ge=0,
        description="Time that `POST /inspect` waits for its answer before it says where it will "
        "be.",
    )
    prepare_seconds: float = Field(
        default=20.0,
        ge=0,
        description="Time after which an inspection worker that was not asked anything loads what "
        "it takes to answer (half a gigabyte of memory); the first question does not wait for it.",
    )
    upload_hours: float = Field(
        default=24.0,
        gt=0,
        description="Time that a file sent with `POST /uploads` is kept.",
    )
    job_days: float = Field(
        default=90.0,
        ge=0,
        description="Time that a job is kept after its end, with its files; 0 keeps it for ever. "
        "Jobs say when they go (`expires_at`).",
    )
    audit_days: float = Field(
        default=365.0,
        ge=0,
        description="Time that it is kept who did what (`GET /audit`); 0 keeps it for ever.",
    )
    lease_seconds: float = Field(
        default=15.0,
        ge=1,
        description="Time after which the job of a silent worker is given to another.",
    )
    checkpoint_seconds: float = Field(
        default=15.0,
        ge=0,
        description="Least time between two states of a refinement that are kept for when its "
        "worker dies; 0 keeps one after each step.",
    )
    stall_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Time without progress after which a job hangs: its worker's process is "
        "replaced, and the job is tried again.",
    )
    sweep_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Time between two rounds of the relay, which publishes and re-queues jobs.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="Attempts after which a job whose worker keeps dying has failed.",
    )

    @field_validator("intake_limits")
    @classmethod
    def _check_limits(cls, value: dict[str, int]) -> dict[str, int]:
        if unknown := value.keys() - {field.name for field in fields(Limits)}:
            raise ValueError(f"there is no limit {sorted(unknown)[0]}; docs/security.md lists them")
        Limits(**value)
        return value

    @field_validator("store_options", mode="before")
    @classmethod
    def _read_options(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("webhook_networks")
    @classmethod
    def _check_networks(cls, value: list[str]) -> list[str]:
        for network in value:
            ip_network(network)
        return value

    @property
    def networks(self) -> list[Network]:
        """Networks that webhooks may call although they are not public."""
        return [ip_network(network) for network in self.webhook_networks]

    @property
    def limits(self) -> Limits:
        """The bounds of what a file that is sent may ask for."""
        return Limits(**self.intake_limits)

    @property
    def upload_seconds(self) -> float:
        """Time that a file sent ahead is kept."""
        return self.upload_hours * 3600

    @property
    def job_seconds(self) -> float | None:
        """Time that a job is kept after its end; None: for ever."""
        return self.job_days * SECONDS_PER_DAY or None

    @property
    def audit_seconds(self) -> float | None:
        """Time that it is kept who did what; None: for ever."""
        return self.audit_days * SECONDS_PER_DAY or None

    @cached_property
    def data_folder(self) -> Path:
        """The data folder as an absolute path."""
        return self.data_dir.expanduser().resolve()

    @cached_property
    def database(self) -> str:
        """The URL of the job record."""
        file = str(self.data_folder / "momentum.db")
        return self.database_url or URL.create("sqlite", database=file).render_as_string()

    @property
    def broker(self) -> str:
        """The URL of the broker."""
        return self.broker_url or "redis://127.0.0.1:6379/0"

    @cached_property
    def zoo_folder(self) -> Path:
        """The folder of fetched zoo weights."""
        return (self.zoo_dir or self.data_folder / "zoo").expanduser().resolve()
