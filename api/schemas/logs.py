"""What a job's log looks like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.times import time_of
from worker.contract.job_logs import LogLine


class LogLevel(StrEnum):
    """How much a line matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As in Python's `logging`."""
        return logging.getLevelNamesMapping()[self.upper()]

    @classmethod
    def of(cls, number: int) -> LogLevel:
        """Return the level of a number; what is worse than an error is one, too."""
        return max((one for one in cls if one.number <= number), key=lambda one: one.number)


class LogLineView(BaseModel):
    """A line."""

    number: int
    at: datetime
    attempt: int
    level: LogLevel
    logger: str = Field(examples=["worker.run_job"])
    message: str

    @classmethod
    def of(cls, line: LogLine) -> Self:
        """Show a line."""
        return cls(
            number=line.number,
            at=time_of(line.at),
            attempt=line.attempt,
            level=LogLevel.of(line.level),
            logger=line.logger,
            message=line.message,
        )


class LogPage(BaseModel):
    """Lines in order; ask for more with `after` set to the last number."""

    lines: list[LogLineView]

    @classmethod
    def of(cls, lines: Sequence[LogLine]) -> Self:
        """Show lines."""
        return cls(lines=[LogLineView.of(one) for one in lines])


def text_of(lines: Sequence[LogLine]) -> str:
    """Return lines as text; what a message has after its first line is indented."""
    return "".join(
        f"{time_of(one.at).isoformat(timespec='milliseconds')} "
        f"{LogLevel.of(one.level).upper()} {one.logger}: "
        + one.message.replace("\n", "\n    ")
        + "\n"
        for one in lines
    )
