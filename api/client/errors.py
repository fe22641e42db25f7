"""What can go wrong between a client and its service: one exception, with a code for programs."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

CONNECTION_FAILED = "connection_failed"
CHECKSUM_MISMATCH = "checksum_mismatch"
FILE_NOT_USABLE = "file_not_usable"
INVALID_ARGUMENT = "invalid_argument"
TIMEOUT = "timeout"
UNEXPECTED_ANSWER = "unexpected_answer"

_MAX_SHOWN = 300


class ApiError(Exception):
    """A request was refused, or could not be carried out.

    Attributes:
        code: a stable word for programs: one of docs/errors.md, or of this module's, or
            `http_502` and the like where something else than the service answered.
        title: the kind of error in a few words.
        detail: what is wrong, what was given, what to do.
        status: HTTP status; None where no answer came.
        request_id: the service's name for the request, if it gave one: its log has it.
        errors: one entry for each wrong option: `pointer` (a JSON pointer) and `detail`.
        retry_after_seconds: when the service says that it is worth asking again.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        title: str = "",
        status: int | None = None,
        request_id: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.title = title or self.code.replace("_", " ")
        self.detail = detail
        self.status = status
        self.request_id = request_id
        self.errors = tuple(errors)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """Return the error as JSON values."""
        return {
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "status": self.status,
            "request_id": self.request_id,
            "errors": list(self.errors),
        }


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Make the error that an answer means.

    Args:
        status: HTTP status.
        headers: of the answer, whatever the case of a name.
        body: a problem (RFC 9457), or whatever a proxy sends.
    """
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    retry_after = retry_after_seconds(headers.get("Retry-After"))
    request_id = headers.get("X-Request-Id")
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        return ApiError(
            problem["code"],
            str(problem.get("detail", "")),
            title=str(problem.get("title", "")),
            status=status,
            request_id=request_id or problem.get("request_id"),
            errors=problem.get("errors") or (),
            retry_after_seconds=retry_after,
        )
    text = body.decode(errors="replace").strip()[:_MAX_SHOWN]
    location = headers.get("Location")
    if location is not None:
        detail = f"the answer is {status} and leads to {location}; take that address as the URL"
    else:
        detail = f"the answer is {status}, and not the service's own; is the URL right?"
        detail += f" It says: {text!r}" if text else ""
    return ApiError(
        f"http_{status}",
        detail,
        status=status,
        request_id=request_id,
        retry_after_seconds=retry_after,
    )


def retry_after_seconds(value: str | None) -> float | None:
    """Return how many seconds a header `Retry-After` means: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None
    return max(0.0, at - time.time())
