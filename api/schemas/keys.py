"""What API keys look like."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.times import optional_time, time_of
from worker.contract.job import DEFAULT_TENANT
from worker.contract.key_store import ApiKey, Scope

TENANT_PATTERN = "^[a-z0-9][a-z0-9._-]{0,63}$"


class KeyRequest(BaseModel):
    """A key that is wanted."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="What it is for.")
    tenant: str = Field(
        default=DEFAULT_TENANT,
        pattern=TENANT_PATTERN,
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


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": time_of(key.created_at),
        "expires_at": optional_time(key.expires_at),
        "revoked_at": optional_time(key.revoked_at),
    }
