"""Where a page of jobs ended, as a word that means nothing to anybody else."""

from __future__ import annotations

import base64
import binascii
import json
import math

from api.dependencies import ID
from api.problems import Problem
from worker.contract.job import Job
from worker.contract.job_store import Position


def write_cursor(job: Job) -> str:
    """Return the cursor of the page after a job."""
    position = json.dumps([job.created_at, job.id], separators=(",", ":"))
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> Position:
    """Return the place that a cursor means.

    Raises:
        Problem: it is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        created_at, job_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        is_ours = isinstance(created_at, float) and math.isfinite(created_at)
        if not is_ours or not ID.fullmatch(job_id):
            raise ValueError
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise Problem(
            422,
            "invalid_cursor",
            "the cursor is not one that GET /jobs gave; leave it out to begin with the newest job",
        ) from None
    return Position(created_at, job_id)
