"""Whether there is room for a body, asked before it is read."""

from __future__ import annotations

from fastapi import Request

from api.dependencies import Service
from api.multipart import too_large
from api.problems import storage_full


def check_room(request: Request, service: Service) -> None:
    """Refuse a body that could not be kept.

    Raises:
        Problem: 413, it says itself that it is too large; 507, the disk is full.
    """
    max_bytes = service.settings.max_upload_bytes
    length = request.headers.get("content-length", "0")
    num_bytes = int(length) if length.isdecimal() else 0
    if num_bytes > max_bytes:
        raise too_large(max_bytes)
    if service.files.free_bytes() < service.settings.min_free_bytes + num_bytes:
        raise storage_full()
