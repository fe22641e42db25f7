"""All runs' rules together, by gradients: Adam on relative changes of the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.calibration.fidelity import divergence_of
from momentum_core.calibration.numbers import RunNumbers
from momentum_core.calibration.student import Student
from momentum_core.calibration.watch import logits_of, outputs_of
from momentum_core.conversion import ExampleInput, RunRule

TEMPERATURE = 4.0
"""Softens both sides: at 1, most images of a confident network would teach nothing."""

MAX_GRADIENT_NORM = 5.0

_NUM_WARM_UP_STEPS = 5
_NUM_CHECKS = 4


@dataclass(frozen=True, slots=True)
class JointFit:
    """Where the steps led."""

    columns: list[tuple[Tensor, ...]]
    """Of each run, the best seen: one to three of c, b, p, shapes (N, C)."""

    divergence: float
    """Theirs on the held-back batches."""

    num_steps: int
    best_step: int


def fit_jointly(
    student: Student,
    original: nn.Module,
    ends: Sequence[nn.Module],
    start: Sequence[RunNumbers],
    rules: Sequence[RunRule],
    batches: Sequence[ExampleInput],
    held_back: Callable[[], float],
    *,
    max_steps: int,
    learning_rate: float,
    start_divergence: float,
) -> JointFit:
    """Take steps that lower the loss of calibration.

        loss = T^2 * KL(original / T || student / T) + mean over runs of |x - x*|^2 / |x*|^2

    with x and x* a run's output and the original's.

    Args:
        student: follows the start; it follows the last step afterwards.
        original: in evaluation mode.
        ends: the last block of each run in the original.
        start: of each run.
        rules: gamma and channel dimension of each run.
        batches: one for each step, in turns.
        held_back: measures the student on other batches.
        max_steps: steps to take; fewer are taken if one is not finite.
        learning_rate: the peak of Adam's.
        start_divergence: what `held_back` gives at the start.
    """
    changes = [[torch.zeros_like(c, requires_grad=True) for c in run.columns] for run in start]
    parameters = [change for of_run in changes for change in of_run]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, betas=(0.9, 0.95))
    interval = max(1, math.ceil(max_steps / _NUM_CHECKS))

    def columns() -> list[tuple[Tensor, ...]]:
        return [run.moved(change) for run, change in zip(start, changes, strict=True)]

    with torch.no_grad():
        best, best_divergence, best_step = columns(), start_divergence, 0
    for step in range(max_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, max_steps)
        batch = batches[step % len(batches)]
        with torch.no_grad(), outputs_of(ends) as goals:
            target = logits_of(original, batch)
        _follow(student, rules, columns())
        with outputs_of(student.runs) as positions:
            logits = logits_of(student.model, batch)
        loss = divergence_of(logits.flatten(0, -2), target.flatten(0, -2), temperature=TEMPERATURE)
        for x, goal in zip(positions, goals, strict=True):
            error = (x.float() - goal.float()).square().sum()
            loss = loss + error / goal.float().square().sum().clamp_min(1e-12) / len(goals)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        if not math.isfinite(float(norm)):
            return JointFit(best, best_divergence, step, best_step)
        optimizer.step()
        if (step + 1) % interval == 0 or step + 1 == max_steps:
            with torch.no_grad():
                now = columns()
            _follow(student, rules, now)
            divergence = held_back()
            if divergence < best_divergence:
                best, best_divergence, best_step = now, divergence, step + 1
    return JointFit(best, best_divergence, max_steps, best_step)


def _follow(
    student: Student, rules: Sequence[RunRule], columns: Sequence[tuple[Tensor, ...]]
) -> None:
    for run, rule, numbers in zip(student.runs, rules, columns, strict=True):
        run.follow(rule, numbers)


def _schedule(step: int, max_steps: int) -> float:
    """Rise within a few steps, fall to 0 along half a cosine."""
    warm = min(1.0, (step + 1) / _NUM_WARM_UP_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * step / max_steps))
