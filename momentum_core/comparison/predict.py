"""Predict what each way to train a network takes of a GPU, for any batch, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from momentum_core.comparison.budget import (
    BUDGETS_GIB,
    GIB,
    CudaTarget,
    DeviceTerms,
    device_terms,
    largest,
    largest_batch,
)
from momentum_core.comparison.depth import DepthPrediction, predict_depth
from momentum_core.comparison.methods import AUTHORS, methods_of
from momentum_core.config import Optimizer
from momentum_core.conversion import plan_of
from momentum_core.errors import DataError
from momentum_core.memory.batch_profile import BatchProfile, profile_batches

EXPLANATION = (
    "tensors: predicted by running the step's own code on tensors without memory; allocator: "
    "simulated, what torch's caching allocator reserves beyond that; workspaces and context: "
    "assumed; nothing here was measured on a GPU"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnDevice:
    """The device of this machine that batches are to fit."""

    kind: str
    """`cuda` or `cpu`."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPoint:
    """A step with one batch size."""

    batch_size: int
    peak_bytes: int
    """Above parameters, gradients, buffers, input and optimizer."""

    terms: DeviceTerms


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPrediction:
    """One way to train."""

    fixed_bytes: int
    """Parameters, gradients, buffers, input and optimizer, at the batch that was asked for."""

    activation_bytes: int
    """Held at the end of the forward pass, at that batch."""

    points: tuple[BatchPoint, ...]
    """Against the batch size."""

    largest_batches: tuple[int, ...]
    """For each budget; 0 where not even one example fits."""

    largest_on_device: int | None
    """On the own device, if there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPrediction:
    """What training takes of a GPU."""

    optimizer: Optimizer
    dtype: str
    batch_size: int
    """That was asked for."""

    target: CudaTarget
    budgets_gib: tuple[float, ...]
    methods: Mapping[str, MethodPrediction]
    not_predicted: Mapping[str, str]
    """The reasons, by method."""

    depth: DepthPrediction | None
    device: OwnDevice | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        budgets = [
            {
                "gib": gib,
                "largest_batch": {
                    name: one.largest_batches[at] for name, one in self.methods.items()
                },
            }
            for at, gib in enumerate(self.budgets_gib)
        ]
        methods = {
            name: {
                "fixed_bytes": one.fixed_bytes,
                "activation_bytes": one.activation_bytes,
                "points": [
                    {
                        "batch_size": point.batch_size,
                        "peak_bytes": point.peak_bytes,
                        "terms": asdict(point.terms) | {"total": point.terms.total},
                    }
                    for point in one.points
                ],
            }
            for name, one in self.methods.items()
        }
        on_device = {name: one.largest_on_device for name, one in self.methods.items()}
        return {
            "basis": "predicted",
            "explanation": EXPLANATION,
            "optimizer": self.optimizer,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "target": asdict(self.target),
            "budgets": budgets,
            "methods": methods,
            "not_predicted": dict(self.not_predicted),
            "depth": self.depth and asdict(self.depth),
            "device": self.device and asdict(self.device) | {"largest_batch": on_device},
        }


def predict_memory(
    original: nn.Module,
    momentum: nn.Module,
    example_input: Any,
    *,
    batch_size: int = 8,
    optimizer: Optimizer = "sgd_momentum",
    dtype: torch.dtype | None = None,
    target: CudaTarget | None = None,
    budgets_gib: Sequence[float] = BUDGETS_GIB,
    device: OwnDevice | None = None,
    rivals: bool = True,
    depth_factors: Sequence[int] = (1, 2, 4),
) -> MemoryPrediction:
    """Predict a training step by each method: memory of a GPU, and the largest batches.

    No model is computed, and no GPU is needed.

    Args:
        original: the network; on any device, `meta` included.
        momentum: what `convert` made of it.
        example_input: what the forward takes; only shapes and types are read.
        batch_size: of the step whose figures are given one by one.
        optimizer: what makes the step.
        dtype: float type of parameters, buffers and input, in place of their own.
        target: what is assumed of the GPU.
        budgets_gib: memory that a step has to fit, in GiB.
        device: the machine's own, whose largest batches are wanted, too.
        rivals: whether checkpointing and the authors' library are predicted.
        depth_factors: by which the longest run is lengthened; empty for none of it.

    Raises:
        ConfigError: there is no such optimizer.
        ConversionError: `momentum` was not converted.
        DataError: `prediction_failed`, when a step of one of the two depends on values.
    """
    target = target or CudaTarget()
    profiles, reasons = _profiles(original, momentum, example_input, dtype, optimizer, rivals)
    budgets = [round(one * GIB) for one in budgets_gib]
    fitting = {
        name: tuple(largest_batch(profile, one, target) for one in budgets)
        for name, profile in profiles.items()
    }
    sizes = _sizes(
        max((max(found, default=0) for found in fitting.values()), default=0), batch_size
    )
    plan, depth = plan_of(momentum), None
    if depth_factors:
        depth = predict_depth(
            original,
            plan,
            example_input,
            factors=depth_factors,
            batch_size=batch_size,
            known={name: one.peak_bytes(batch_size) for name, one in profiles.items()},
        )
    return MemoryPrediction(
        optimizer=optimizer,
        dtype=str(dtype or next(original.parameters()).dtype).removeprefix("torch."),
        batch_size=batch_size,
        target=target,
        budgets_gib=tuple(budgets_gib),
        methods={
            name: MethodPrediction(
                fixed_bytes=profile.fixed_bytes(batch_size),
                activation_bytes=profile.activation_bytes(batch_size),
                points=tuple(
                    BatchPoint(
                        batch_size=size,
                        peak_bytes=profile.peak_bytes(size),
                        terms=device_terms(profile, size, target),
                    )
                    for size in sizes
                ),
                largest_batches=fitting[name],
                largest_on_device=_on_device(profile, device, target),
            )
            for name, profile in profiles.items()
        },
        not_predicted=reasons,
        depth=depth,
        device=device,
    )


def _profiles(
    original: nn.Module,
    momentum: nn.Module,
    example_input: Any,
    dtype: torch.dtype | None,
    optimizer: Optimizer,
    rivals: bool,
) -> tuple[dict[str, BatchProfile], dict[str, str]]:
    profiles, reasons = {}, {}
    for method in methods_of(original, momentum, rivals=rivals):
        if method.model is None:
            assert method.reason is not None
            reasons[method.name] = method.reason
            continue
        try:
            profiles[method.name] = profile_batches(
                method.model, example_input, dtype=dtype, optimizer=optimizer
            )
        except DataError as error:
            if method.name != AUTHORS:
                raise
            reasons[method.name] = str(error)
    return profiles, reasons


def _sizes(most: int, batch_size: int) -> list[int]:
    """Return powers of two up to the largest batch that is of interest, and what was asked for."""
    powers = [2**power for power in range(max(1, most).bit_length())]
    return sorted({*powers, batch_size})


def _on_device(profile: BatchProfile, device: OwnDevice | None, target: CudaTarget) -> int | None:
    if device is None:
        return None
    if device.kind == "cuda":
        return largest_batch(profile, device.memory_bytes, target)
    return largest(lambda size: device.memory_bytes - profile.total_bytes(size))
