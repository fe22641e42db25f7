"""A training step's memory for every batch size, from two predictions.

A storage's size is a + b * batch: two predictions of the same step give a and b of every change,
and the rest is addition. What a device's kernels do for other reasons at other sizes is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from momentum_core.config import Optimizer
from momentum_core.errors import DataError
from momentum_core.memory.count import StepCount
from momentum_core.memory.prediction import predict_changes
from momentum_core.memory.tracker import Change
from momentum_core.reversible import imagined_on

_SMALL, _LARGE = 8, 16
"""Powers of two: what is packed into bits fills whole bytes."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """The changes of a step's storages as functions of the batch size."""

    small: StepCount
    """The step with a batch of 8."""

    large: StepCount
    """With 16."""

    storages: NDArray[np.int64]
    """Number of the storage of each change; what exists before the step comes first."""

    constant: NDArray[np.float64]
    per_example: NDArray[np.float64]

    def total_bytes(self, batch_size: int) -> int:
        """Return all that is held at the peak, parameters and so on included."""
        return int(np.cumsum(self._sizes(batch_size)).max())

    def fixed_bytes(self, batch_size: int) -> int:
        """Return what is there before the step and after it."""
        return _line(self.small.fixed_bytes, self.large.fixed_bytes, batch_size)

    def peak_bytes(self, batch_size: int) -> int:
        """Return the most that is held at once above `fixed_bytes`."""
        return self.total_bytes(batch_size) - self.fixed_bytes(batch_size)

    def activation_bytes(self, batch_size: int) -> int:
        """Return what is held at the end of the forward pass for the backward pass."""
        return _line(self.small.activation_bytes, self.large.activation_bytes, batch_size)

    def changes(self, batch_size: int) -> list[Change]:
        """Return every making, resizing and freeing of a storage."""
        sizes = self._sizes(batch_size)
        return [Change(int(n), int(s)) for n, s in zip(self.storages, sizes, strict=True)]

    def _sizes(self, batch_size: int) -> NDArray[np.int64]:
        return np.rint(self.constant + self.per_example * batch_size).astype(np.int64)


def profile_batches(
    model: nn.Module,
    example_input: Any,
    *,
    dtype: torch.dtype | None = None,
    optimizer: Optimizer = "sgd_momentum",
    device: str = "cuda",
) -> BatchProfile:
    """Predict a training step of `model`, which is neither run nor changed, for all batch sizes.

    Args:
        model: any model.
        example_input: what its forward takes; only shapes and types are read.
        dtype: float type of parameters, buffers and input, in place of their own.
        optimizer: what makes the step.
        device: `cpu` or `cuda`: what this library and the optimizer do there; of other kernels,
            those of a CPU are counted.

    Raises:
        ConfigError: there is no such optimizer.
        DataError: `prediction_failed`, when the step depends on values, or does other things for
            another batch.
    """
    with imagined_on(device):
        (small, before), (large, after) = (
            predict_changes(
                model,
                example_input,
                batch_size=size,
                dtype=dtype,
                optimizer=optimizer,
                foreach=device != "cpu",
            )
            for size in (_SMALL, _LARGE)
        )
    storages = [change.storage for change in before]
    if storages != [change.storage for change in after]:
        raise DataError(
            f"a training step of {type(model).__qualname__} does other things for another batch "
            "size, so its memory is not known for all; predict it for one "
            "(momentum_core.memory.predict_training_step)",
            code="prediction_failed",
        )
    constant, per_example = _lines(before, after)
    return BatchProfile(small, large, np.array(storages, np.int64), constant, per_example)


def _lines(
    before: Sequence[Change], after: Sequence[Change]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    at_small = np.array([change.num_bytes for change in before], np.float64)
    at_large = np.array([change.num_bytes for change in after], np.float64)
    per_example = (at_large - at_small) / (_LARGE - _SMALL)
    return at_small - per_example * _SMALL, per_example


def _line(at_small: int, at_large: int, batch_size: int) -> int:
    return at_small + round((at_large - at_small) * (batch_size - _SMALL) / (_LARGE - _SMALL))
