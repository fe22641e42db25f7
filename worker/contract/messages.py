"""What travels through the broker: the name of a task and an id, nothing else."""

from __future__ import annotations

from typing import Literal

CONVERT_TASK = "momentum.convert"
"""Celery's name of the task; its one argument is the job's id."""

CONVERT_QUEUE = "momentum-convert"
"""The queue of the workers that convert."""

Lane = Literal["any", "cpu", "cuda"]
"""For which workers a job is: it waits in the one queue, and its message lies in a list of its own
that only they listen to."""

LANES: tuple[Lane, ...] = ("any", "cpu", "cuda")


def queue_of(lane: str) -> str:
    """Return the broker's name of the list that a lane's messages lie in."""
    return CONVERT_QUEUE if lane == "any" else f"{CONVERT_QUEUE}-{lane}"


INSPECT_TASK = "momentum.inspect"
"""Celery's name of the task; its one argument is the inspection's id."""

INSPECT_QUEUE = "momentum-inspect"
"""The queue of the inspection worker, which needs no GPU and is never busy for long."""
