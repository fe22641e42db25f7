"""What a step would hold if the network's longest run had more blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from momentum_core.comparison.methods import methods_of
from momentum_core.conversion import ConversionPlan, PlannedRun, RunRule, convert
from momentum_core.memory.prediction import predict_changes
from momentum_core.reversible import imagined_on


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthPoint:
    """One length of the run."""

    num_blocks: int
    peak_bytes: Mapping[str, int]
    """By method, above parameters, gradients, buffers, input and optimizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthPrediction:
    """Peaks against the length of one run."""

    run: str
    """Name of its first block."""

    points: tuple[DepthPoint, ...]


def predict_depth(
    original: nn.Module,
    plan: ConversionPlan,
    example_input: Any,
    *,
    factors: Sequence[int],
    batch_size: int,
    known: Mapping[str, int],
) -> DepthPrediction | None:
    """Predict peaks with the longest run lengthened by copies of its last block.

    Args:
        original: the network; on any device, it is not computed.
        plan: where its runs are.
        example_input: what its forward takes.
        factors: by which the run's number of blocks is multiplied.
        batch_size: examples in the step.
        known: peaks of the network as it is, by method.

    Returns:
        None where no run is the end of a sequence, so that it is not known how it could go on.
    """
    run = _longest(original, plan)
    if run is None:
        return None

    points = []
    for factor in factors:
        found = dict(known)
        if factor != 1:
            longer, longer_plan = _lengthened(original, plan, run, factor)
            for one in methods_of(longer, convert(longer, plan=longer_plan)):
                if one.name in known and one.model is not None:
                    found[one.name] = _peak(one.model, example_input, batch_size)
        points.append(DepthPoint(num_blocks=factor * len(run.blocks), peak_bytes=found))
    return DepthPrediction(run=run.name, points=tuple(points))


def _peak(model: nn.Module, example_input: Any, batch_size: int) -> int:
    with imagined_on("cuda"):
        count, _ = predict_changes(model, example_input, batch_size=batch_size)
    return count.peak_bytes


def _longest(model: nn.Module, plan: ConversionPlan) -> PlannedRun | None:
    """Return the longest run that ends a sequence and is called with one tensor."""
    able = []
    for run in plan.runs:
        parent, _, last = run.blocks[-1].rpartition(".")
        sequence = model.get_submodule(parent)
        if isinstance(sequence, nn.Sequential) and run.pattern.is_plain:
            able += [run] if list(sequence._modules)[-1] == last else []
    return max(able, key=lambda run: len(run.blocks), default=None)


def _lengthened(
    model: nn.Module, plan: ConversionPlan, run: PlannedRun, factor: int
) -> tuple[nn.Module, ConversionPlan]:
    parent = run.name.rpartition(".")[0]
    with torch.device("meta"):
        copied = copy.deepcopy(model).to("meta")
    sequence = copied.get_submodule(parent)
    assert isinstance(sequence, nn.Sequential)
    names = list(run.blocks)
    for number in range((factor - 1) * len(run.blocks)):
        name = f"more{number}"
        sequence.add_module(name, copy.deepcopy(sequence[len(sequence) - 1]))
        names.append(f"{parent}.{name}")
    rule = RunRule.of_scheme(plan.scheme, run.gamma, len(names))
    longer = replace(run, blocks=tuple(names), rule=rule)
    runs = tuple(longer if one is run else one for one in plan.runs)
    return copied, replace(plan, runs=runs)
