"""The tables of the job record; a migration makes each of them, and a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

REVISION = "0014"
"""The newest migration, which these tables are the outcome of."""

ID_LENGTH = 32

_ID = String(ID_LENGTH)
_SHA256 = String(64)
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite counts rows only in a column of exactly this type.
_COUNTER = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("blob_sha256", _SHA256, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("facts", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Index(None, "blob_sha256"),
    Index(None, "tenant", "created_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", Text),
    Column("state", String(16), nullable=False),
    Column("stage", String(16)),
    Column("progress", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("worker", String(255)),
    Column("lease_until", Double),
    Column("cancel_requested", Boolean, nullable=False),
    Column("waiting_for", String(32)),
    Column("request", _JSON, nullable=False),
    # The first `REQUEST_VERSION` that knows all that is asked for.
    Column("request_version", Integer, nullable=False, server_default="1"),
    # Which workers it is for: their kind of device, or any (`worker.contract.messages`).
    Column("lane", String(16), nullable=False, server_default="any"),
    # The least memory that its worker's device may have.
    Column("memory_bytes", BigInteger),
    # The registered data set that its worker must have.
    Column("dataset", String(100)),
    # 0 is taken first.
    Column("priority_rank", Integer, nullable=False, server_default="1"),
    Column("checkpoint_id", _ID, ForeignKey("uploads.id")),
    Column("data_id", _ID, ForeignKey("uploads.id")),
    Column("result", _JSON),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    # The job whose request this one repeats; it may have been deleted.
    Column("retry_of", _ID),
    # Ids of the request that it came of (`worker.contract.origin`).
    Column("origin", _JSON),
    Index(None, "tenant", "created_at", "id"),
    Index(None, "tenant", "state", "created_at", "id"),
    # What a claim chooses by.
    Index(None, "state", "tenant", "priority_rank", "created_at", "id", "lane"),
    # What the relay looks for in every round.
    Index(None, "state", "lease_until"),
    Index(None, "state", "waiting_for", "created_at"),
    # What the collector looks for.
    Index(None, "finished_at"),
)

job_tags = Table(
    "job_tags",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(64), primary_key=True),
    # The job's own, so that one index gives a tag's jobs in the order of a list.
    Column("tenant", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "tenant", "tag", "created_at", "job_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    # SHA-256 of what was asked for: the same key with another request is a mistake.
    Column("fingerprint", _SHA256, nullable=False),
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "job_id"),
    Index(None, "created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", Text, nullable=False),
    # Keys are 256 random bits: there is nothing to guess, so a plain digest keeps them.
    Column("token_sha256", _SHA256, nullable=False),
    Column("scopes", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Index(None, "token_sha256", unique=True),
    Index(None, "tenant", "created_at"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("data", _JSON, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("kinds", _JSON, nullable=False),
    # Messages are signed with it, so a digest would not do.
    Column("secret", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double),
    Index(None, "tenant", "created_at"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("webhook_id", _ID, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("event_number", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer),
    Column("problem", Text),
    Column("created_at", Double, nullable=False),
    Column("next_at", Double),
    Column("finished_at", Double),
    Index(None, "webhook_id", "id"),
    Index(None, "job_id"),
    Index(None, "state", "next_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("sent_at", Double),
    Index(None, "job_id"),
    Index(None, "sent_at", "id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("blob_sha256", _SHA256, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("media_type", String(128), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "blob_sha256"),
)

inspections = Table(
    "inspections",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("question", _JSON, nullable=False),
    Column("answer", _JSON),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("created_at", Double, nullable=False),
    Column("num_sent", Integer, nullable=False),
    Column("sent_at", Double),
    Column("finished_at", Double),
    Index(None, "tenant", "finished_at"),
    Index(None, "finished_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("queues", _JSON, nullable=False),
    Column("version", String(64), nullable=False),
    Column("torch_version", String(64), nullable=False),
    # Found by the process that computes, a moment after the worker has announced itself.
    Column("device", String(32)),
    Column("device_model", Text),
    Column("device_bytes", BigInteger),
    Column("num_threads", Integer),
    # Names of the registered data sets that it has.
    Column("datasets", _JSON, nullable=False, server_default="[]"),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("is_draining", Boolean, nullable=False),
)

queues = Table(
    "queues",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("paused_at", Double),
)

# Whose turn it is: who was served longest ago.
tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("served_at", Double, nullable=False),
)

# What is gone still counts: a row for each state that a job can end in.
forgotten_jobs = Table(
    "forgotten_jobs",
    metadata,
    Column("state", String(16), primary_key=True),
    Column("num_jobs", BigInteger, nullable=False),
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("logger", String(128), nullable=False),
    Column("message", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("request_id", _ID, nullable=False),
    Column("tenant", String(64)),
    # Of a key that may be gone.
    Column("key_id", _ID),
    Column("address", String(64)),
    Column("operation", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("num_omitted", Integer, nullable=False),
    Index(None, "at"),
    Index(None, "tenant", "id"),
    Index(None, "key_id", "id"),
)
