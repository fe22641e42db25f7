"""Operations on jobs that are one request each, and the list of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.client.effects import Give, Op, Pause, Request, place
from api.client.records import Comparison, JobRecord, LogLine, read, read_list
from api.client.retrying import RetryPolicy, exchange

PAGE_JOBS = 100
POLL_SECONDS = 1.0
"""Between two looks for further lines of a log."""


def list_jobs(
    policy: RetryPolicy,
    *,
    state: str | Iterable[str] = (),
    tag: str | Iterable[str] = (),
    text: str | None = None,
    limit: int | None = None,
) -> Op[None]:
    """Yield jobs, the newest first; further pages are fetched as they are needed.

    Args:
        state: one of these states.
        tag: every one of these tags.
        text: part of the name, or how the id begins.
        limit: how many at most.

    Raises:
        ApiError: a filter is not allowed, and whatever any request may meet.
    """
    query = [("state", one) for one in _several(state)] + [("tag", one) for one in _several(tag)]
    query += [] if text is None else [("text", text)]
    left, cursor = limit, None
    while left is None or left > 0:
        page = [*query, ("limit", str(min(PAGE_JOBS, left or PAGE_JOBS)))]
        page += [] if cursor is None else [("cursor", cursor)]
        request = Request(method="GET", path="/jobs", query=tuple(page))
        found = (yield from exchange(request, policy)).json()
        records = read_list(JobRecord, found, "jobs")
        for record in records:
            yield Give(record)
        left = None if left is None else left - len(records)
        cursor = found.get("next_cursor")
        if cursor is None:
            return


def get_job(policy: RetryPolicy, job_id: str) -> Op[JobRecord]:
    """Ask how a job stands.

    Raises:
        ApiError: `job_not_found`, and whatever any request may meet.
    """
    answer = yield from exchange(Request(method="GET", path=place("jobs", job_id)), policy)
    return read(JobRecord, answer.json())


def cancel_job(policy: RetryPolicy, job_id: str) -> Op[JobRecord]:
    """Stop a job: one that waits ends at once, one that runs within seconds.

    Raises:
        ApiError: `job_finished`, `job_not_found`, and whatever any request may meet.
    """
    path = place("jobs", job_id, "cancel")
    answer = yield from exchange(Request(method="POST", path=path), policy)
    return read(JobRecord, answer.json())


def retry_job(policy: RetryPolicy, job_id: str) -> Op[JobRecord]:
    """Ask for the same again: a new job with the request and the files of one that has ended.

    Raises:
        ApiError: `job_not_finished`, `job_not_found`, and whatever any request may meet.
    """
    path = place("jobs", job_id, "retry")
    answer = yield from exchange(Request(method="POST", path=path, is_repeatable=False), policy)
    return read(JobRecord, answer.json())


def delete_job(policy: RetryPolicy, job_id: str) -> Op[None]:
    """Forget a job that has ended, with its events and its files.

    Raises:
        ApiError: `job_not_finished`, `job_not_found`, and whatever any request may meet.
    """
    yield from exchange(Request(method="DELETE", path=place("jobs", job_id)), policy)


def get_report(policy: RetryPolicy, job_id: str) -> Op[dict[str, Any]]:
    """Return the memory report of a job that has succeeded (docs/report.md), as JSON values.

    Raises:
        ApiError: `job_not_finished`, `job_failed`, and whatever any request may meet.
    """
    request = Request(
        method="GET", path=place("jobs", job_id, "report"), headers={"Accept": "application/json"}
    )
    return dict((yield from exchange(request, policy)).json())


def compare_jobs(policy: RetryPolicy, job_ids: Iterable[str]) -> Op[Comparison]:
    """Hold jobs that have succeeded side by side: where their requests differ, and every figure.

    Args:
        job_ids: two of them or more.

    Raises:
        ApiError: `job_not_found`, `job_not_finished`, and whatever any request may meet.
    """
    query = tuple(("job", job_id) for job_id in job_ids)
    answer = yield from exchange(Request(method="GET", path="/jobs/compare", query=query), policy)
    return read(Comparison, answer.json())


def list_logs(
    policy: RetryPolicy,
    job_id: str,
    *,
    level: str = "info",
    after: int = 0,
    follow: bool = False,
) -> Op[None]:
    """Yield what a job's worker said.

    Args:
        level: at least this: `info`, `warning` or `error`.
        after: the number of the last line that is known already.
        follow: go on until the job has ended.

    Raises:
        ApiError: `job_not_found`, and whatever any request may meet.
    """
    while True:
        # Before the lines are asked for: those that come last count.
        has_ended = not follow or (yield from get_job(policy, job_id)).is_final
        query = (("after", str(after)), ("level", level))
        request = Request(method="GET", path=place("jobs", job_id, "logs"), query=query)
        lines = read_list(LogLine, (yield from exchange(request, policy)).json(), "lines")
        for line in lines:
            after = line.number
            yield Give(line)
        if not lines and has_ended:
            return
        if not lines:
            yield Pause(POLL_SECONDS)


def _several(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
