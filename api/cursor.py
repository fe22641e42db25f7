"""Where a page of jobs ended, as a word that means nothing to anybody else."""

from __future__ import annotations

import struct

from worker.contract.job import Job
from worker.contract.job_store import Position

CURSOR_PATTERN = "^4[0-9a-f]{15}[0-9a-f]{32}$"
"""A time's eight bytes and a job's id; every such word is a place (times above 2 seconds)."""

_TIME_DIGITS = 16


def write_cursor(job: Job) -> str:
    """Return the cursor of the page after a job."""
    return struct.pack(">d", job.created_at).hex() + job.id


def read_cursor(cursor: str) -> Position:
    """Return the place that a word of `CURSOR_PATTERN` means."""
    (created_at,) = struct.unpack(">d", bytes.fromhex(cursor[:_TIME_DIGITS]))
    return Position(created_at, cursor[_TIME_DIGITS:])
