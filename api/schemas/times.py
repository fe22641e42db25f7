"""Times as answers show them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d", re.ASCII)


def time_of(seconds: float) -> datetime:
    """Return a time of the record, which is in seconds since 1970, UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def optional_time(seconds: float | None) -> datetime | None:
    """Return a time that may not have come yet."""
    return None if seconds is None else time_of(seconds)


def _written_out(value: str) -> str:
    """Refuse what pydantic would take for a time besides: seconds since 1970, days."""
    if not _MOMENT.match(value):
        raise ValueError("write a time as 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[datetime, BeforeValidator(_written_out)]
"""A time in a request."""
