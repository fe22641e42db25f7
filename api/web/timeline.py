"""Stages of a job with their times, and when it should end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from api.words import progress_words
from momentum_core.errors import ArchitectureError
from worker.contract.job import Event, Job, JobState, Stage
from worker.contract.zoo import find_zoo_entry

MIN_PROGRESS = 0.1
"""Of a job that has come less far, nothing is foretold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """One stage of the last attempt."""

    name: str
    state: Literal["done", "now", "stopped", "to come"]
    seconds: float | None
    """So far; None where it has not begun."""

    words: str = ""
    """What the last progress event says, in the stage that is on now."""


def stages(job: Job, events: Sequence[Event], now: float) -> list[StageView]:
    """Return the stages that the job went through since it last started, and those to come.

    A stage that comes twice, such as evaluating before and after refining, is listed twice.
    """
    begun: list[tuple[str, float]] = []
    for event in events:
        if event.kind in ("started", "requeued"):
            begun.clear()
        elif event.kind == "stage":
            begun.append((str(event.data.get("stage")), event.at))
    found: list[StageView] = []
    for at, (name, start) in enumerate(begun):
        is_last = at + 1 == len(begun)
        end = (job.finished_at or now) if is_last else begun[at + 1][1]
        state: Literal["done", "now", "stopped"] = "done"
        if is_last and job.state == JobState.RUNNING:
            state = "now"
        elif is_last and job.state in (JobState.FAILED, JobState.CANCELLED):
            state = "stopped"
        words = _last_words(events) if state == "now" else ""
        found.append(StageView(name=name, state=state, seconds=max(0.0, end - start), words=words))
    if not job.state.is_final:
        names = [one.name for one in found]
        found += [
            StageView(name=name, state="to come", seconds=None)
            for name in _still_to_come(_sequence(job), names)
        ]
    return found


def _sequence(job: Job) -> list[Stage]:
    """Return the stages of a job in the order in which its worker enters them."""
    before = [Stage.LOADING, Stage.PLANNING, Stage.CONVERTING, Stage.MEASURING]
    between: list[Stage] = []
    if _has_images(job):
        between = [Stage.EVALUATING, Stage.REFINING, Stage.EVALUATING]
        if job.request.get("task") == "finetune":
            between = [Stage.REFINING, Stage.EVALUATING]
        elif job.request.get("refinement") is None:
            between = [Stage.EVALUATING]
    return [*before, *between, Stage.PACKAGING]


def _has_images(job: Job) -> bool:
    named = (job.request.get("source") or {}).get("zoo")
    return job.data_id is not None or bool(job.request.get("data")) or _brings_images(named)


def _brings_images(name: str | None) -> bool:
    try:
        return name is not None and find_zoo_entry(name).data_file is not None
    except ArchitectureError:  # a library's name
        return False


def _still_to_come(sequence: Sequence[Stage], begun: Sequence[str]) -> Sequence[Stage]:
    at = 0
    for name in begun:
        with suppress(ValueError):
            at = sequence.index(Stage(name), at) + 1
    return sequence[at:]


def seconds_left(job: Job, events: Sequence[Event], now: float) -> float | None:
    """Return what a running job still takes: as training says, or in proportion to what is done."""
    if job.state != JobState.RUNNING or job.started_at is None:
        return None
    told = (event for event in reversed(events) if event.attempt == job.attempt)
    last = next((event for event in told if event.kind == "progress"), None)
    if last is not None and last.data.get("eta_seconds") is not None:
        return max(0.0, float(last.data["eta_seconds"]) - (now - last.at))
    if not MIN_PROGRESS <= job.progress < 1:
        return None
    return (now - job.started_at) * (1 / job.progress - 1)


def _last_words(events: Sequence[Event]) -> str:
    last = events[-1]
    return progress_words(last.data) if last.kind == "progress" else ""
