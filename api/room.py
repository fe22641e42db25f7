"""Whether there is room for a body, asked before it is read."""

from __future__ import annotations

from fastapi import Request

from api.dependencies import Service
from api.multipart import too_large
from api.problems import storage_full


def stated_length(request: Request) -> int:
    """Return how long a body says that it is; 0 if it does not."""
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def check_room(num_bytes: int, service: Service) -> None:
    """Refuse a body that could not be kept.

    Args:
        num_bytes: that it says it has.
        service: which is to keep it.

    Raises:
        Problem: 413, it says itself that it is too large; 507, the disk is full.
    """
    max_bytes = service.settings.max_upload_bytes
    if num_bytes > max_bytes:
        raise too_large(max_bytes)
    if service.files.free_bytes() < service.settings.min_free_bytes + num_bytes:
        raise storage_full()
