"""Times as answers show them."""

from __future__ import annotations

from datetime import UTC, datetime


def time_of(seconds: float) -> datetime:
    """Return a time of the record, which is in seconds since 1970, UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def optional_time(seconds: float | None) -> datetime | None:
    """Return a time that may not have come yet."""
    return None if seconds is None else time_of(seconds)
