"""Finished jobs side by side: where their requests differ, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.contract.job import Job

Better = Literal["higher", "lower"]

_HIGHER = ("/top1_percent/", "/agreement_percent/", "/largest_batch/")
_LOWER = (
    "/activation_bytes/",
    "/peak_bytes/",
    "/step_time_ratio",
    "/seconds_per_image/",
    "/seconds",
)
_OWN = ("/name", "/tags")
"""What a request says for people, and no job depends on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An option that is not the same in all requests."""

    path: str
    """Where it stands in `request`, as a JSON pointer (RFC 6901)."""

    values: tuple[Any, ...]
    """Of each job; null where it has none."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the jobs' results."""

    path: str
    """Where it stands in `result`, as a JSON pointer."""

    better: Better | None
    """None where neither is."""

    values: tuple[Any, ...]
    best: tuple[int, ...]
    """Numbers of the jobs that have the best value, counted from 0; none where all have it."""


def differences(jobs: Sequence[Job]) -> list[Difference]:
    """Return the options in which the requests differ, in the order of the first that has them."""
    found = _side_by_side([job.request for job in jobs])
    return [
        Difference(path, values)
        for path, values in found.items()
        if not path.startswith(_OWN) and any(value != values[0] for value in values)
    ]


def figures(jobs: Sequence[Job]) -> list[Figure]:
    """Return every figure of the results, and which job has the best."""
    found = _side_by_side([(job.result or {}) | {"seconds": _seconds(job)} for job in jobs])
    return [
        Figure(path, better := _better(path), values, _best(values, better))
        for path, values in found.items()
        if any(value is not None for value in values)
    ]


def _seconds(job: Job) -> float | None:
    if job.started_at is None or job.finished_at is None:
        return None
    return job.finished_at - job.started_at


def _better(path: str) -> Better | None:
    if path.startswith(_HIGHER):
        return "higher"
    return "lower" if path.startswith(_LOWER) else None


def _best(values: Sequence[Any], better: Better | None) -> tuple[int, ...]:
    numbers = [value for value in values if isinstance(value, int | float)]
    if better is None or len(numbers) < 2 or len(set(numbers)) == 1:
        return ()
    best = max(numbers) if better == "higher" else min(numbers)
    return tuple(at for at, value in enumerate(values) if value == best)


def _side_by_side(all_values: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    leaves = [dict(_leaves(values)) for values in all_values]
    paths = dict.fromkeys(path for one in leaves for path in one)
    return {path: tuple(one.get(path) for one in leaves) for path in paths}


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value that is no object, with its path; a list is one value."""
    for name, value in values.items():
        at = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(value, Mapping):
            yield from _leaves(value, at)
        else:
            yield at, value
