"""`Idempotency-Key`: a request that is sent again, its answer being lost, makes no second job."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from api.problems import Problem
from worker.contract.file_store import StoredFile
from worker.contract.job_store import IdempotencyKey
from worker.contract.request import ConvertRequest

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"

IDEMPOTENCY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A word of your own for this request, such as a UUID: sent again with the same "
    f"request, it gives the same job, and the answer has `{REPLAYED_HEADER}: true`.",
}
_KEY = re.compile(r"[!-~]{1,255}")


def read_key(
    header: str | None, request: ConvertRequest, parts: dict[str, Path]
) -> IdempotencyKey | None:
    """Return the key of a request, with what it stands for; None without a header.

    Args:
        header: its value.
        request: what is asked for.
        parts: the files that were sent, by the name of their part.

    Raises:
        Problem: the header is no key.
    """
    if header is None:
        return None
    if not _KEY.fullmatch(header):
        raise Problem(
            422,
            "invalid_request",
            f"{HEADER} must have 1 to 255 printable ASCII characters without spaces; a UUID does",
        )
    files = {name: StoredFile.of(path).sha256 for name, path in sorted(parts.items())}
    asked = json.dumps([request.to_json(), files], sort_keys=True)
    return IdempotencyKey(header, hashlib.sha256(asked.encode()).hexdigest())


def key_reused() -> Problem:
    """Make the answer to a key that stands for another request."""
    return Problem(
        422,
        "idempotency_key_reused",
        f"this {HEADER} was sent before, with another request or other files; take a new key",
    )
