"""What a job's worker said while it worked: lines in the record, bounded, gone with the job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, func, insert, select

from worker.contract.database import database_now, reading
from worker.contract.tables import job_logs, jobs

MAX_LINES, MAX_CHARACTERS = 5000, 1 << 20
"""Of a job, all its attempts together."""

RESERVED_LINES, RESERVED_CHARACTERS = 500, 1 << 17
"""Further room that only warnings and errors may take: the end says most."""

MAX_MESSAGE_CHARACTERS = 4000
MAX_NAME_CHARACTERS = 128
MAX_LISTED = 1000
"""Lines in one page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A line that is to be kept."""

    seconds_ago: float
    """Measured where it was said: times are the database's."""
    level: int
    """As in `logging`."""
    logger: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a job's log, numbered from 1 without gaps."""

    number: int
    at: float
    """Seconds since 1970 by the database's clock."""
    attempt: int
    level: int
    logger: str
    message: str


class JobLogs:
    """The logs of all jobs."""

    def __init__(self, engine: Engine) -> None:
        """Use the record."""
        self._engine = engine
        self._reader = reading(engine)

    def append(self, job_id: str, lines: Sequence[Said], *, attempt: int) -> int:
        """Add lines in one transaction; return how many a full log had no room for.

        Raises:
            IntegrityError: the job was deleted, or a late worker writes at the same moment.
        """
        rows: list[dict[str, Any]] = []
        with self._engine.begin() as connection:
            length = func.coalesce(func.sum(func.length(job_logs.c.message)), 0)
            used = select(func.count(), length, database_now()).where(job_logs.c.job_id == job_id)
            num_lines, num_characters, now = connection.execute(used).one()
            for line in lines:
                num_more = num_characters + len(line.message)
                most_lines, most_characters = _room(line.level)
                if num_lines >= most_lines or num_more > most_characters:
                    continue
                num_lines, num_characters = num_lines + 1, num_more
                rows.append(
                    {
                        "job_id": job_id,
                        "number": num_lines,
                        "at": now - line.seconds_ago,
                        "attempt": attempt,
                        "level": line.level,
                        "logger": line.logger,
                        "message": line.message,
                    }
                )
            if rows:
                connection.execute(insert(job_logs), rows)
        return len(lines) - len(rows)

    def lines_of(
        self, job_id: str, *, after: int = 0, level: int = 0, limit: int = MAX_LISTED
    ) -> list[LogLine]:
        """Return lines with a number above `after` and of at least a level, in order."""
        query = (
            select(job_logs)
            .where(
                job_logs.c.job_id == job_id, job_logs.c.number > after, job_logs.c.level >= level
            )
            .order_by(job_logs.c.number)
            .limit(limit)
        )
        with self._reader.connect() as connection:
            return [_line_of(row) for row in connection.execute(query)]

    def newest_of(self, job_id: str, *, limit: int) -> list[LogLine]:
        """Return the last lines, in order."""
        query = (
            select(job_logs)
            .where(job_logs.c.job_id == job_id)
            .order_by(job_logs.c.number.desc())
            .limit(limit)
        )
        with self._reader.connect() as connection:
            return [_line_of(row) for row in connection.execute(query)][::-1]

    def has_job(self, job_id: str) -> bool:
        """Return whether a job is still there to be written about."""
        with self._reader.connect() as connection:
            found = connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id))
        return found is not None


def _line_of(row: Row[Any]) -> LogLine:
    return LogLine(
        number=row.number,
        at=row.at,
        attempt=row.attempt,
        level=row.level,
        logger=row.logger,
        message=row.message,
    )


def _room(level: int) -> tuple[int, int]:
    """Return how many lines and characters a log may have after a line of this level."""
    if level < logging.WARNING:
        return MAX_LINES, MAX_CHARACTERS
    return MAX_LINES + RESERVED_LINES, MAX_CHARACTERS + RESERVED_CHARACTERS
