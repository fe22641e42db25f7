"""Who did what, and what was refused: rows that are only added, until their time is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, insert, select

from worker.contract.database import database_now, reading
from worker.contract.tables import audit


class Outcome(StrEnum):
    """What came of a request."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    """Its key was missing, did not hold, or did not allow it."""
    FAILED = "failed"
    """It was wrong, or the service could not do it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deed:
    """What somebody asked for, without anything that is secret."""

    request_id: str
    tenant: str | None
    """None: nobody knows who asked."""
    key_id: str | None
    """None: without a key, from this machine; or with none that holds."""
    address: str | None
    """Where the request came from."""
    operation: str
    """As the OpenAPI document names it."""
    target: str
    """Path of what was made or changed."""
    status: int
    outcome: Outcome
    num_omitted: int = 0
    """Refusals of the same caller before this one that were too many to be noted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A deed in the log."""

    id: int
    at: float
    """Seconds since 1970 by the database's clock."""
    deed: Deed


class AuditLog:
    """The log of all tenants."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def append(self, deed: Deed) -> None:
        """Add a deed; it is durable afterwards."""
        with self._engine.begin() as connection:
            connection.execute(insert(audit).values(at=database_now(), **asdict(deed)))

    def find(
        self,
        filters: Mapping[str, str],
        *,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Entry]:
        """Return entries, the newest first.

        Args:
            filters: values that columns must have, by name.
            since: not before this time.
            until: before this time.
            before: only entries that come after the one with this id in the list.
            limit: how many at most.
        """
        query = select(audit).where(*(audit.c[name] == value for name, value in filters.items()))
        if since is not None:
            query = query.where(audit.c.at >= since)
        if until is not None:
            query = query.where(audit.c.at < until)
        if before is not None:
            query = query.where(audit.c.id < before)
        query = query.order_by(audit.c.id.desc()).limit(limit)
        with self._reader.connect() as connection:
            return [_entry(row._mapping) for row in connection.execute(query)]


def _entry(row: Mapping[Any, Any]) -> Entry:
    values = dict(row)
    entry_id, at = values.pop("id"), values.pop("at")
    return Entry(id=entry_id, at=at, deed=Deed(**values | {"outcome": Outcome(values["outcome"])}))
