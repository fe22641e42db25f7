"""Times and counts training steps of several methods in turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.memory import MemoryTracker

REPEATS = 9


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One method's step."""

    seconds: float
    peak_bytes: int
    """Above parameters, gradients and input."""


def compare(
    methods: Mapping[str, Callable[[Tensor], Tensor]], parameters: list[nn.Parameter], x: Tensor
) -> dict[str, StepFigures]:
    """Measure a step (forward and backward pass of a sum of squares) of every method.

    Args:
        methods: functions of the input that share the parameters, by name.
        parameters: theirs.
        x: the input; it needs a gradient.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    x.grad = torch.zeros_like(x)
    for repeat in range(REPEATS + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            _step(method, x)
            if repeat:  # the first round makes what later ones reuse
                times[name].append(time.perf_counter() - start)
    figures = {}
    for name, method in methods.items():
        known = [*parameters, *(p.grad for p in parameters if p.grad is not None), x, x.grad]
        with MemoryTracker(known) as tracker:
            _step(method, x)
        figures[name] = StepFigures(statistics.median(times[name]), tracker.peak_bytes)
    return figures


def show(title: str, figures: Mapping[str, StepFigures], *, reference: str) -> None:
    """Print a table; times are ratios to the reference."""
    sys.stdout.write(f"\n{title}\n")
    base = figures[reference].seconds
    for name, one in figures.items():
        sys.stdout.write(
            f"  {name:32} {one.peak_bytes / 2**20:9.1f} MiB   {one.seconds / base:5.2f}x time\n"
        )


def _step(method: Callable[[Tensor], Tensor], x: Tensor) -> None:
    method(x).square().sum().backward()
