"""API keys: who asks, and what they may. Only a digest of each is kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, Row, and_, bindparam, insert, or_, select, update

from worker.contract.database import database_now, reading
from worker.contract.job_record import new_id
from worker.contract.tables import api_keys

PREFIX = "mz_"
"""How every key begins, so that a scanner for leaked secrets can tell one."""


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """Look at jobs and download what they made."""

    WRITE = "write"
    """Send files, ask for jobs, cancel and forget them."""

    ADMIN = "admin"
    """Everything, and make keys for every tenant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key, without its secret; times are seconds since 1970, UTC."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


# Made once: putting a query together costs more than running it.
_IS_VALID = and_(
    api_keys.c.revoked_at.is_(None),
    or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > database_now()),
)
_HOLDS = select(api_keys).where(api_keys.c.token_sha256 == bindparam("digest"), _IS_VALID)


class KeyStore:
    """The keys of all tenants."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def create(
        self,
        *,
        tenant: str,
        name: str,
        scopes: Collection[Scope],
        lifetime_seconds: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; return it, and the secret that is shown this once."""
        key_id, secret = new_id(), PREFIX + secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            now = connection.scalar(select(database_now()))
            assert now is not None
            row = {
                "id": key_id,
                "tenant": tenant,
                "name": name,
                "token_sha256": _digest(secret),
                "scopes": sorted(map(str, scopes)),
                "created_at": now,
                "expires_at": None if lifetime_seconds is None else now + lifetime_seconds,
            }
            connection.execute(insert(api_keys), row)
            made = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one()
        return _key_of(made), secret

    def find(self, secret: str) -> ApiKey | None:
        """Return the key of a secret, if it is one that still holds."""
        with self._reader.connect() as connection:
            row = connection.execute(_HOLDS, {"digest": _digest(secret)}).one_or_none()
        return None if row is None else _key_of(row)

    def holding(self, key_ids: Collection[str]) -> set[str]:
        """Return which of some keys still hold, by their ids."""
        query = select(api_keys.c.id).where(api_keys.c.id.in_(key_ids), _IS_VALID)
        with self._reader.connect() as connection:
            return set(connection.scalars(query))

    def all(self) -> list[ApiKey]:
        """Return all keys, the newest first."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
        with self._reader.connect() as connection:
            return [_key_of(row) for row in connection.execute(query)]

    def revoke(self, key_id: str) -> None:
        """End a key at once.

        Raises:
            LookupError: there is none of this id.
        """
        with self._engine.begin() as connection:
            if connection.scalar(select(api_keys.c.id).where(api_keys.c.id == key_id)) is None:
                raise LookupError("no such key")
            connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=database_now())
            )

    def create_first(self, *, tenant: str, keep: Callable[[str], None]) -> bool:
        """Make an admin key if there is no key at all; return whether it was made.

        Of several processes that start at once, one makes it.

        Args:
            tenant: whose.
            keep: puts the secret where it is found; before the key counts, or nobody would know it.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.exec_driver_sql("LOCK TABLE api_keys IN EXCLUSIVE MODE")
            if connection.execute(select(api_keys.c.id).limit(1)).one_or_none() is not None:
                return False
            keep(secret)
            row = {
                "id": new_id(),
                "tenant": tenant,
                "name": "first key",
                "token_sha256": _digest(secret),
                "scopes": [str(Scope.ADMIN)],
                "created_at": database_now(),
            }
            connection.execute(insert(api_keys).values(row))
        return True


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=frozenset(map(Scope, row.scopes)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
