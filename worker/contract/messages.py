"""What travels through the broker: the name of the task and a job's id, nothing else."""

from __future__ import annotations

CONVERT_TASK = "momentum.convert"
"""Celery's name of the task; its one argument is the job's id."""

CONVERT_QUEUE = "momentum-convert"
"""The queue that workers listen to."""
