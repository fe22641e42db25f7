"""What is at work at the moment, for whoever writes a log: a request, and the job that came of it.

A job is recorded with where it came from, so that what a worker says and traces days later, on
another machine, is found under the id of the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

REQUEST_ID, TRACEPARENT, JOB_ID = "request_id", "traceparent", "job_id"
"""Names of ids; the second is W3C's Trace Context."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("momentum_ids", default={})  # noqa: B039 (never changed)


def current_ids() -> Mapping[str, str]:
    """Return the ids of what is at work."""
    return _ids.get()


def begin(**ids: str) -> None:
    """Say what is at work in this task from now on."""
    _ids.set({**_ids.get(), **ids})


@contextmanager
def at_work(ids: Mapping[str, str]) -> Iterator[None]:
    """Say what is at work while the context lasts, in its thread and tasks."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def origin() -> dict[str, str] | None:
    """Return what is recorded of where a job comes from; None if nothing is known."""
    ids = _ids.get()
    found = {name: ids[name] for name in (REQUEST_ID, TRACEPARENT) if name in ids}
    return found or None
