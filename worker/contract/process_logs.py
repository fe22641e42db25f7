"""What a process says of itself, on standard error: lines for people, or JSON for programs."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from worker.contract.origin import current_ids

LogFormat = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(style: LogFormat) -> None:
    """Write all that this process says to standard error; to be called once, before anything else.

    Each line of JSON has `timestamp` (UTC), `level`, `logger`, `message`, `process`, `thread`, and
    where they are known `request_id`, `job_id` and `traceparent`.

    Args:
        style: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Json(JsonFormatter):
    """A line of JSON."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s %(process)d %(threadName)s",
            rename_fields={"levelname": "level", "name": "logger", "threadName": "thread"},
            timestamp=True,
        )

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        return {**log_data, **current_ids()}
