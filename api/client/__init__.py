"""The Python client of the service; it needs httpx, and nothing of the service itself.

sync_client async_client     the two clients: tables of methods, each written once as an operation
conversion files_ahead jobs following downloading service      the operations
retrying                     what is sent again, and when
effects running              what operations ask of the world, and who carries it out
records errors               what comes back
"""

from api.client.async_client import AsyncClient, AsyncJob
from api.client.errors import ApiError
from api.client.records import (
    Artifact,
    AuditEntry,
    Comparison,
    Delivery,
    Device,
    Difference,
    Event,
    Figure,
    Inspection,
    JobError,
    JobRecord,
    Key,
    LogLine,
    Queue,
    Readiness,
    RegisteredDataset,
    ServiceLimits,
    ServiceVersion,
    Upload,
    Usage,
    Webhook,
    Worker,
    Zoo,
    ZooEntry,
)
from api.client.retrying import RetryPolicy
from api.client.sync_client import DEFAULT_URL, Client, Job

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "AuditEntry",
    "Client",
    "Comparison",
    "Delivery",
    "Device",
    "Difference",
    "Event",
    "Figure",
    "Inspection",
    "Job",
    "JobError",
    "JobRecord",
    "Key",
    "LogLine",
    "Queue",
    "Readiness",
    "RegisteredDataset",
    "RetryPolicy",
    "ServiceLimits",
    "ServiceVersion",
    "Upload",
    "Usage",
    "Webhook",
    "Worker",
    "Zoo",
    "ZooEntry",
]
