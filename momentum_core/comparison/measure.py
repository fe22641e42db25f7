"""Measure the ways to train one network side by side, in one run and in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from momentum_core.comparison.methods import MOMENTUM, ORIGINAL, methods_of
from momentum_core.config import Optimizer
from momentum_core.memory import StepMeasurement, measure_side_by_side


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryComparison:
    """What a training step costs by each method."""

    measured: Mapping[str, StepMeasurement]
    """By method, in the order of `METHODS`; `original` and `momentum` are always there."""

    not_measured: Mapping[str, str]
    """The reasons, by method."""

    @property
    def original(self) -> StepMeasurement:
        """The network as it is."""
        return self.measured[ORIGINAL]

    @property
    def momentum(self) -> StepMeasurement:
        """The momentum network."""
        return self.measured[MOMENTUM]

    def time_ratio(self, method: str) -> float:
        """Return the median seconds of a step over those of the original."""
        return self.measured[method].seconds / self.original.seconds


def measure_memory(
    original: nn.Module,
    momentum: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int = 5,
    optimizer: Optimizer = "sgd_momentum",
    rivals: bool = True,
    on_round: Callable[[int], None] | None = None,
) -> MemoryComparison:
    """Measure a training step of the original, of the momentum network and of their rivals.

    Rivals are gradient checkpointing around each block and around sqrt(n) segments, and the
    authors' library, if it is installed.

    Args:
        original: the network.
        momentum: what `convert` made of it.
        images: shape (B, C, H, W), on the models' device.
        labels: class numbers, shape (B,), int64.
        repeats: timed repetitions; all methods take turns.
        optimizer: what makes the step.
        rivals: whether they are measured.
        on_round: called with the number of repetitions that are done; may raise to stop.

    Raises:
        ConfigError: there is no such optimizer.
        ConversionError: `momentum` was not converted.
        DataError: `measurement_failed`, when the network cannot be trained on such a batch.
        ReversibilityError: it cannot be reversed on the images.
    """
    found = methods_of(original, momentum, rivals=rivals)
    reasons = {one.name: one.reason for one in found if one.reason is not None}
    able = {one.name: (one.model, one.parts) for one in found if one.model is not None}
    measured = measure_side_by_side(
        [model for model, _ in able.values()],
        images,
        labels,
        repeats=repeats,
        optimizer=optimizer,
        parts=[parts for _, parts in able.values()],
        on_round=on_round,
    )
    return MemoryComparison(measured=dict(zip(able, measured, strict=True)), not_measured=reasons)
