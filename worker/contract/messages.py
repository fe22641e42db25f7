"""What travels through the broker: the name of a task and an id, nothing else."""

from __future__ import annotations

CONVERT_TASK = "momentum.convert"
"""Celery's name of the task; its one argument is the job's id."""

CONVERT_QUEUE = "momentum-convert"
"""The queue of the workers that convert."""

INSPECT_TASK = "momentum.inspect"
"""Celery's name of the task; its one argument is the inspection's id."""

INSPECT_QUEUE = "momentum-inspect"
"""The queue of the inspection worker, which needs no GPU and is never busy for long."""
