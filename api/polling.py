"""How often it is worth asking for a job."""

from __future__ import annotations

RETRY_SECONDS = 2
"""The header `Retry-After` of a job that has not ended."""
