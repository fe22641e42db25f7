"""What must hold of database, files and executions, whatever happened (the checker of all faults).

I1  every job that was acknowledged is there, and has ended
I2  only a job that succeeded has artifacts; each is in the store with the digest on record
I3  nothing was published under another fence than that of the last claim
I4  nothing follows an end
I5  fences grow; attempts grow by one, and fall only where a worker was stopped in order
I6  weights are those of an undisturbed run
I7  no temporary file is left, no state of a job that ended, no lease
I8  events are numbered without gaps, states follow the graph, steps never fall in an attempt
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Row, select

from worker.contract.database import create_database_engine
from worker.contract.job import NEXT_STATES, JobState
from worker.contract.tables import artifacts, events, jobs

_STATE_OF = {
    "queued": JobState.QUEUED,
    "started": JobState.RUNNING,
    "requeued": JobState.QUEUED,
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
}
"""The state that an event of a kind leads to; others change none."""


def violations(
    *,
    database: str,
    folder: Path,
    executions: Path,
    acknowledged: Sequence[str],
    weights: Mapping[str, str],
) -> list[str]:
    """Return a sentence for everything that does not hold; the service may run, at rest.

    Args:
        database: SQLAlchemy URL of the record.
        folder: the data folder.
        executions: the log that failpoints keep of claims and publications.
        acknowledged: ids of the jobs that were answered with 202.
        weights: what the digest of a job's weights is to be.
    """
    engine = create_database_engine(database)
    try:
        return list(_Check(engine, folder, executions).all(acknowledged, weights))
    finally:
        engine.dispose()


class _Check:
    def __init__(self, engine: Engine, folder: Path, executions: Path) -> None:
        with engine.connect() as connection:
            self._jobs = {row.id: row for row in connection.execute(select(jobs))}
            self._artifacts = connection.execute(select(artifacts)).all()
            self._events: dict[str, list[Row[Any]]] = defaultdict(list)
            for row in connection.execute(
                select(events).order_by(events.c.job_id, events.c.number)
            ):
                self._events[row.job_id].append(row)
        self._folder = folder
        lines = executions.read_text().splitlines() if executions.exists() else []
        self._executions = [line.split()[2:] for line in lines]

    def all(self, acknowledged: Sequence[str], weights: Mapping[str, str]) -> Iterator[str]:
        for job_id in acknowledged:
            job = self._jobs.get(job_id)
            if job is None:
                yield f"I1: job {job_id} is lost"
            elif not JobState(job.state).is_final:
                yield f"I1: job {job_id} has not ended, it is {job.state} ({job.waiting_for})"
        yield from self._files(weights)
        yield from self._claims()
        yield from self._left_over()
        for job_id, found in self._events.items():
            yield from self._history(self._jobs[job_id], found)

    def _files(self, weights: Mapping[str, str]) -> Iterator[str]:
        of = defaultdict(dict)
        for row in self._artifacts:
            of[row.job_id][row.name] = row.blob_sha256
            path = self._folder / "blobs" / row.blob_sha256[:2] / row.blob_sha256
            if not path.exists():
                yield f"I2: {row.name} of {row.job_id} is not in the store"
            elif _sha256(path) != row.blob_sha256:
                yield f"I2: {row.name} of {row.job_id} is torn"
        for job_id, job in self._jobs.items():
            has_weights = "model.safetensors" in of[job_id]
            if (job.state == JobState.SUCCEEDED) != has_weights:
                yield f"I2: job {job_id} is {job.state}, with {sorted(of[job_id])}"
        for job_id, wanted in weights.items():
            if of[job_id].get("model.safetensors", wanted) != wanted:
                yield f"I6: the weights of {job_id} are other ones"

    def _claims(self) -> Iterator[str]:
        claimed: dict[str, list[int]] = defaultdict(list)
        published: dict[str, list[int]] = defaultdict(list)
        for what, job_id, fence in self._executions:
            (claimed if what == "claimed" else published)[job_id].append(int(fence))
        for job_id, fences in claimed.items():
            if fences != sorted(set(fences)):
                yield f"I5: job {job_id} was claimed with the fences {fences}"
        for job_id, fences in published.items():
            if len(fences) > 1 or fences[0] != max(claimed[job_id]):
                yield f"I3: job {job_id} was published by {fences} of {claimed[job_id]}"

    def _left_over(self) -> Iterator[str]:
        for left in (self._folder / "tmp").iterdir():
            yield f"I7: {left} is left over"
        for left in (self._folder / "unfinished").iterdir():
            job = self._jobs.get(left.name)
            if job is None or JobState(job.state).is_final:
                yield f"I7: the state of {left.name} is left over"
        for job_id, job in self._jobs.items():
            if JobState(job.state).is_final and job.lease_until is not None:
                yield f"I7: job {job_id} has ended and has a lease"

    def _history(self, job: Row[Any], found: list[Row[Any]]) -> Iterator[str]:
        if [event.number for event in found] != list(range(1, job.revision + 1)):
            yield f"I8: the events of {job.id} have gaps"
        state, attempt, step = JobState.QUEUED, 0, 0
        for event in found:
            if state.is_final:
                yield f"I4: {event.kind} of {job.id} after {state}"
            if event.kind == "started":
                if event.attempt != attempt + 1:
                    yield f"I5: attempt {event.attempt} of {job.id} after {attempt}"
                step = 0
            is_back = event.kind == "waiting" or event.data.get("reason") == "worker_stopped"
            if event.kind != "started" and event.attempt != attempt - (
                is_back and state == JobState.RUNNING
            ):
                yield f"I5: {event.kind} of {job.id} in attempt {event.attempt}, it is {attempt}"
            attempt = event.attempt
            if event.kind == "progress":
                if event.data.get("step", step) < step:
                    yield f"I8: step {event.data['step']} of {job.id} after {step}"
                step = event.data.get("step", step)
            new = _STATE_OF.get(event.kind, state)
            if event.kind == "waiting" and state == JobState.RUNNING:
                new = JobState.QUEUED
            if new != state and new not in NEXT_STATES[state]:
                yield f"I8: {job.id} went from {state} to {new}"
            state = new
        if state != job.state:
            yield f"I8: the events of {job.id} end in {state}, it is {job.state}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
