"""Times and counts training steps of several methods in turns."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.memory import MemoryTracker
from momentum_core.reversible import MomentumStack
from tests.benchmarks.findings import Table

REPEATS = 9


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One method's step."""

    seconds: float
    """Median of a step; NaN if none was timed."""

    peak_bytes: int
    """Above parameters, gradients, buffers and input."""


def compare(
    methods: Mapping[str, Callable[[Tensor], Tensor]],
    parameters: Sequence[nn.Parameter],
    x: Tensor,
    *,
    buffers: Sequence[Tensor] = (),
    repeats: int = REPEATS,
) -> dict[str, StepFigures]:
    """Measure a step (forward and backward pass of a sum of squares) of every method.

    Args:
        methods: functions of the input, by name.
        parameters: all that the methods train.
        x: the input.
        buffers: all that the methods move.
        repeats: timed steps of each; with 0 there are no times.
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    leaves = [tensor for tensor in (*parameters, x) if tensor.requires_grad]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    for repeat in range(repeats + 1 if repeats else 0):
        for name, method in methods.items():
            start = time.perf_counter()
            _step(method, x)
            if repeat:  # the first round makes what later ones reuse
                times[name].append(time.perf_counter() - start)
    figures = {}
    for name, method in methods.items():
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        with MemoryTracker([*parameters, *gradients, *buffers, x]) as tracker:
            _step(method, x)
        seconds = statistics.median(times[name]) if repeats else math.nan
        figures[name] = StepFigures(seconds, tracker.peak_bytes)
    return figures


def warm(network: nn.Module) -> nn.Module:
    """Return the network as it is after the first minute of training: updates are compiled."""
    for module in network.modules():
        if isinstance(module, MomentumStack) and has_compiler():
            module.fused = True
    return network


def has_compiler() -> bool:
    """Whether the backend `inductor` can work on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


def table(name: str, title: str, figures: Mapping[str, StepFigures], *, reference: str) -> Table:
    """Return peaks and times; times are ratios to the reference."""
    base = figures[reference].seconds
    is_timed = not math.isnan(base)
    rows = tuple(
        (method, one.peak_bytes / 2**20, *((one.seconds / base,) if is_timed else ()))
        for method, one in figures.items()
    )
    columns = ("method", "peak, MiB", *(("time of a step",) if is_timed else ()))
    return Table(name, title, columns, rows)


def _step(method: Callable[[Tensor], Tensor], x: Tensor) -> None:
    method(x).square().sum().backward()
